"""Commands for a machine with a GPU: is the CUDA engine right there, and how fast is it?"""
