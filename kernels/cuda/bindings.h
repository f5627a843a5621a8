// Parts of the Python module, each bound in a file of its own.
#pragma once
#include <nanobind/nanobind.h>

namespace gamegen::cuda {

void bind_checks(nanobind::module_& m);
void bind_canvas(nanobind::module_& m);

}  // namespace gamegen::cuda
