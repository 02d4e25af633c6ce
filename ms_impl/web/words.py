"""What the page says, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping

ENGLISH, CHINESE = "en", "zh-CN"

_WORDS: dict[str, tuple[str, str]] = {
    "conversation": ("Conversation", "对话"),
    "question": ("Question", "问题"),
    "ask": ("Ask something", "输入问题"),
    "empty": ("Ask something.", "请输入问题。"),
    "empty_image": (
        "Add an image with the paper clip, or drop it here, and ask about it.",
        "用回形针添加图片，或拖到这里，然后提问。",
    ),
    "empty_media": (
        "Add images, videos or sounds with the paper clip, or drop them here, and ask about them.",
        "用回形针添加图片、视频或声音，或拖到这里，然后提问。",
    ),
    "stays": ("Everything stays on the machine that this page comes from.", "所有内容都只留在提供本页面的机器上。"),
    "regenerate": ("Regenerate", "重新生成"),
    "clear": ("Clear", "清空"),
    "settings": ("Settings", "设置"),
    "temperature": ("Temperature", "温度"),
    "temperature_info": ("0: always the likeliest token", "0：总取最可能的 token"),
    "top_p": ("Top-p", "Top-p"),
    "top_p_info": ("draw among the likeliest tokens of this probability", "在累计概率达到该值的 token 中采样"),
    "max_tokens": ("Longest answer, in tokens", "回答的最大 token 数"),
    "enable_thinking": ("Think before answering", "先思考再回答"),
    "thinking_budget": ("Longest thinking, in tokens; 0: no limit", "思考的最大 token 数；0：不限"),
    "use_audio_in_video": ("Listen to the sound of videos", "听视频中的声音"),
    "thinking": ("Thinking", "思考过程"),
    "waiting": ("…", "……"),
    "cut": ("The answer reached its longest length.", "回答已达到最大长度。"),
    "stopped": ("Stopped.", "已停止。"),
    "boxes": ("The image with the boxes of the answer", "画有回答中方框的图片"),
    "timeline": ("The timeline of the clip with the times of the answer", "标有回答中时刻的时间轴"),
    "no_question": ("Ask something first.", "请先输入问题。"),
    "no_kind": (
        "{name}: this model does not take such files; it takes {takes}.",
        "{name}：该模型不接受此类文件，只接受{takes}。",
    ),
    "image": ("images", "图片"),
    "video": ("videos", "视频"),
    "audio": ("sounds", "声音"),
    "busy": ("Many are asking just now; try again in a moment.", "现在提问的人很多，请稍后再试。"),
    "late": ("This took longer than an answer may take.", "生成时间超过了上限。"),
    "ends": ("The server is being shut down.", "服务正在关闭。"),
    "failed": ("Something went wrong on the server; its log tells what.", "服务器出错，详情见其日志。"),
    "refused": ("{reason}", "无法回答：{reason}"),
}  # fmt: skip

_BY_STATUS = {429: "busy", 503: "ends", 504: "late", 500: "failed"}


def translations() -> Mapping[str, Mapping[str, str]]:
    """All words by the languages of browsers."""
    english = {key: words[0] for key, words in _WORDS.items()}
    chinese = {key: words[1] for key, words in _WORDS.items()}
    return {"en": english, "zh-CN": chinese, "zh": chinese, "zh-TW": chinese}


def language_of(accepted: str | None) -> str:
    """The language of a browser, by its Accept-Language: Chinese if that comes first, else English."""
    return CHINESE if (accepted or "").strip().lower().startswith("zh") else ENGLISH


def word(language: str, key: str, **filled: str) -> str:
    """A word or a sentence in a language; a key that is not known stands for itself."""
    found = _WORDS.get(key)
    return found[language == CHINESE].format(**filled) if found else key


def sentence_for(language: str, status: int, message: str) -> str:
    """What a request that is refused with an HTTP status is told."""
    if status in _BY_STATUS:
        return word(language, _BY_STATUS[status])
    return word(language, "refused", reason=message[:1].upper() + message[1:])
