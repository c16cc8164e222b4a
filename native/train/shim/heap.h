// Where libtorch's tensors on the CPU come from.
#pragma once

extern "C" {
// From here on the storages of CPU tensors are blocks of `malloc`, aligned by us. Storages that there are stay what they
// are: each knows how it is freed.
void kd_heap_install();
}
