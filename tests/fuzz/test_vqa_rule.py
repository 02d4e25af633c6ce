"""VQA's normalisation and accuracy against the official rule, written here once more: table, marks, leave-one-out."""

import re

from ms_impl.evaluate.vqa import normalise, soft_accuracy, strip_punctuation

# As eval_mm/vqa_eval.py has them, keys of capitals and "somebody'd" too.
TABLE = dict(
    pair.split("=")
    for pair in """
    aint=ain't arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've couldnt've=couldn't've
    didnt=didn't doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've hadn'tve=hadn't've hasnt=hasn't
    havent=haven't hed=he'd hed've=he'd've he'dve=he'd've hes=he's howd=how'd howll=how'll hows=how's Id've=I'd've
    I'dve=I'd've Im=I'm Ive=I've isnt=isn't itd=it'd itd've=it'd've it'dve=it'd've itll=it'll let's=let's maam=ma'am
    mightnt=mightn't mightnt've=mightn't've mightn'tve=mightn't've mightve=might've mustnt=mustn't mustve=must've
    neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at 'ows'at='ow's'at 'ow'sat='ow's'at
    shant=shan't shed've=she'd've she'dve=she'd've she's=she's shouldve=should've shouldnt=shouldn't
    shouldnt've=shouldn't've shouldn'tve=shouldn't've somebody'd=somebodyd somebodyd've=somebody'd've
    somebody'dve=somebody'd've somebodyll=somebody'll somebodys=somebody's someoned=someone'd someoned've=someone'd've
    someone'dve=someone'd've someonell=someone'll someones=someone's somethingd=something'd
    somethingd've=something'd've something'dve=something'd've somethingll=something'll thats=that's thered=there'd
    thered've=there'd've there'dve=there'd've therere=there're theres=there's theyd=they'd theyd've=they'd've
    they'dve=they'd've theyll=they'll theyre=they're theyve=they've twas='twas wasnt=wasn't wed've=we'd've
    we'dve=we'd've weve=we've werent=weren't whatll=what'll whatre=what're whats=what's whatve=what've whens=when's
    whered=where'd wheres=where's whereve=where've whod=who'd whod've=who'd've who'dve=who'd've wholl=who'll
    whos=who's whove=who've whyll=why'll whyre=why're whys=why's wont=won't wouldve=would've wouldnt=wouldn't
    wouldnt've=wouldn't've wouldn'tve=wouldn't've yall=y'all yall'll=y'all'll y'allll=y'all'll yall'd've=y'all'd've
    y'alld've=y'all'd've y'all'dve=y'all'd've youd=you'd youd've=you'd've you'dve=you'd've youll=you'll youre=you're
    youve=you've
    """.split()  # noqa: SIM905
)
COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(COUNTED)}}
MARKS = ';/[]"{}()=+\\_-><@`,?!'
WORDS = (
    *TABLE,
    *TABLE.values(),
    *DIGITS,
    "a",
    "an",
    "the",
    "The",
    "A",
    "yes",
    "No",
    "cat",
    "1,000",
    "3,5",
    "4.5",
    ".5",
    "5.",
    "U.S.",
    "st.",
    "10:30",
    "don't",
    "’",
    "×",
    "é",
    "İ",
    "ß",
    "٣,٤",
    "1,a",
    "...",
    "." * 40,
    "'",
    ":",
    "%",
    "$",
    "",
)
SPACES = (" ",) * 6 + ("", "  ", "\t", "\n", "\u00a0", "\u3000", "\r", "\x1c")


def punctuation(text: str) -> str:
    comma_in_number = re.search(r"\d,\d", text) is not None
    result = text
    for mark in MARKS:
        beside_space = (mark + " ") in text or (" " + mark) in text
        result = result.replace(mark, "" if beside_space or comma_in_number else " ")
    pieces, cut = "", 0
    for place, letter in enumerate(result):  # "." before no digit goes, 32 times at most
        if letter == "." and cut < 32 and not re.match(r"\d", result[place + 1 :]):
            cut += 1
        else:
            pieces += letter
    return pieces


def official(answer: str) -> str:
    text = punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    kept = []
    for word in text.lower().split():
        word = DIGITS.get(word, word)
        if word not in ("a", "an", "the"):
            kept.append(TABLE.get(word, word))
    return " ".join(kept)


def accuracy(answer: str, people: list[str]) -> float:
    answer = official(answer)
    if len(set(people)) > 1:
        people = [punctuation(text) for text in people]
    each = []
    for own in range(len(people)):
        others = people[:own] + people[own + 1 :]
        each.append(min(1, float(others.count(answer)) / 3))
    return float(sum(each)) / len(each)


def text(rng) -> str:
    pieces = []
    for _ in range(rng.integers(6)):
        word = WORDS[rng.integers(len(WORDS))]
        if rng.random() < 0.3:
            mark = (MARKS + ".,'")[rng.integers(len(MARKS) + 3)]
            place = rng.integers(len(word) + 1)
            word = word[:place] + mark + word[place:]
        pieces.append((word.upper() if rng.random() < 0.1 else word) + SPACES[rng.integers(len(SPACES))])
    return "".join(pieces)


def make(rng, folder):
    answer = text(rng)
    said = [answer, official(answer), *(text(rng) for _ in range(2))]
    return answer, [said[rng.integers(len(said))] for _ in range(rng.integers(4, 11))]


def run(case) -> None:
    answer, people = case
    assert normalise(answer) == official(answer), repr(answer)
    assert [strip_punctuation(text) for text in people] == [punctuation(text) for text in people], people
    assert soft_accuracy(answer, people) == accuracy(answer, people), case


def test_every_word_of_the_table():
    assert {word: normalise(word) for word in TABLE} == {word: official(word) for word in TABLE}


def test_vqa(fuzz):
    fuzz("vqa", make, run)
