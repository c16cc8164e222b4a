// libtorch asks for its CUDA part once and keeps the answer for the process. Between the files of the shim.
#pragma once

// Lets libtorch find the CUDA part that has been opened, also where it was asked for before.
void use_cuda_hooks();
