// What MindSpore passes to an operator of its graphs that is a function in a library ("aot").
#pragma once

#include <cstdint>
#include <cstring>
#include <new>

#include "numbers.h"

constexpr int64_t kAlone = 1 << 17;  // numbers up to which one thread has done before another is awake

// An input or output: its memory, and how many numbers of which type it has.
struct Tensor {
  void *data;
  int64_t dimensions;
  const int64_t *shape;
  const char *type;

  int64_t last() const { return shape[dimensions - 1]; }
  int64_t size() const {
    int64_t product = 1;
    for (int64_t i = 0; i < dimensions; ++i) product *= shape[i];
    return product;
  }
};

struct Given {
  int count;
  void **data;
  int *dimensions;
  int64_t **shapes;
  const char **types;

  Tensor operator[](int i) const { return {data[i], dimensions[i], shapes[i], types[i]}; }
};

// use(pointer to the tensor's numbers), which are fp32 or fp16: ms_impl/cells/operators.py passes no others.
template <class Use>
void visit_activations(const Tensor &tensor, Use use) {
  if (!std::strcmp(tensor.type, "float32")) return use(static_cast<float *>(tensor.data));
  use(static_cast<Float16 *>(tensor.data));
}

// The same, of fp32, fp16 or bf16.
template <class Use>
void visit_weights(const Tensor &tensor, Use use) {
  if (!std::strcmp(tensor.type, "bfloat16")) return use(static_cast<BFloat16 *>(tensor.data));
  visit_activations(tensor, use);
}

// What an operator returns to MindSpore: 0, or 1 where there is not the memory for it.
template <class Compute>
int status(Compute compute) try {
  compute();
  return 0;
} catch (const std::bad_alloc &) {
  return 1;
}

#define OPERATOR(name)                                                                                          \
  extern "C" int name(int count, void **data, int *dimensions, int64_t **shapes, const char **types, void *, void *)
