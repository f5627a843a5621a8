// Marks what host and device share.
#pragma once
#if !defined(GAMEGEN_HD)
#if defined(__CUDACC__)
#define GAMEGEN_HD __host__ __device__
#else
#define GAMEGEN_HD
#endif
#endif
