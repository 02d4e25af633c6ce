"""Kernels of our own for the CPU, in C++: compiled where a compiler is, with MindSpore's operators as the fall-back."""
