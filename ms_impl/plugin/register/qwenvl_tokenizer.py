from ms_impl.qwenvl.tokenizer import QwenVLTokenizer  # noqa: F401
