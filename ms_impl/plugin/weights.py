"""temporary"""
from __future__ import annotations
import mindspore as ms
from convert.engine import load_for_mindspore

def load_weights(model, path, family):
    parameters = model.parameters_dict()
    for tensor in load_for_mindspore(path, family, model.config, "fp32"):
        p = parameters[tensor.name]
        p.set_data(ms.Tensor(tensor.array(), p.dtype))
