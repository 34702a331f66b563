"""Writes odd.jsonl: what Python's `tokenizers` 0.23.2 and `transformers` 5.18.0 make of odd texts and of ids without sense.

    python -m venv venv && venv/bin/pip install tokenizers==0.23.2 transformers==5.18.0
    venv/bin/python test/tokenizer/make_odd.py

It reads golden.jsonl and changes parts of the tokenizers there. The first line is the list of texts, each other line a
tokenizer {name, base, change, ...}, where `change` replaces sections of the tokenizer.json of `base`, and the rest is, if the
tokenizer is there to show it:
    encoded: for each text its ids without special tokens, or null if Python refuses the text
    framed:  for each of the first texts [ids, ids of the pair of it and "a b", types of the pair]
    decoded: [ids, text, text without special tokens, text without special tokens, cleaned up]
"""
import json, os, random
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
STORY = json.load(open(os.path.join(HERE, "../../models/storyteller/tokenizer.json"), encoding="utf-8"))
GOLDEN = [json.loads(line) for line in open(os.path.join(HERE, "golden.jsonl"), encoding="utf-8")]
BASES = {entry["name"]: entry["json"] or STORY for entry in GOLDEN}

RNG = random.Random(7)
TEXTS = [
    "", " ", "  ", " a", "a ", "\u0085a", "\u2028b", "\u3000 c", "\u00a0d\u202f", "\ufeffx", "\u200bz", "a\u0301\u0327", "\u0301a",
    "e\u0323\u0302", "\u1e9b\u0323", "<s><s></s>", "<s", "s><s>", "<<s>>", "</s></s> <unk>", "[CLS] [SEP][MASK]", "[[CLS]]",
    "<|endoftext|><|endoftext|>", "\x00a\x00", "\x01\x7f", "\ue000\uf8ff", "\U0010ffff", "👩‍👩‍👧‍👦👍🏽", "🇩🇪🇫🇷", "\r\n\r\n",
    "a\r\nb\n\nc\t\td", "x" * 101, "ab" * 60, "   lead", "trail   ", "a  b   c    d", " \n \t ", "Привет мир", "שלום", "مرحبا ١٢٣",
    "नमस्ते", "こんにちは", "中文字符测试", "한국어", "ไทย", "ΟΔΟΣ Σ", "İstanbul ı", "ǅ ﬁ ﬃ", "①②½²", "$1.50 100% a_b-c",
    "don't CAN'T it's we'll", "\u0378\u0379", "\u00ad\u2060", "\u180e", "𝔸𝕓𝒞 𠀀", "A\u030a\u00c5", "\u1100\u1161\u11a8", "ß ẞ", "ﷺﷺ",
    "\u2581a\u2581\u2581b", "<0x41><0xE2>", "a<x>b <x> c<x>", "<x><x>", " <x> ", "\u200d", "\u20dd", "3.14159", "٠١٢ 𝟘𝟙",
    "abq babq xbabqx  b b", "  abq  b", "\tabq \t", "a Привет  b",
]
PARTS = [text for text in TEXTS if text and len(text) < 20]
TEXTS += ["".join(RNG.choice(PARTS) for _ in range(RNG.randint(2, 4))) for _ in range(28)]
FRAMED = 4


def several(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def metaspace(scheme):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}


def bert(clean, chinese, accents, lower):
    return {"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese, "strip_accents": accents, "lowercase": lower}


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
FALLBACK = {"type": "ByteFallback"}
FUSE = {"type": "Fuse"}
CLS, SEP = ["<s>", 1], ["</s>", 2]

ENCODE = [(name, name, {}) for name in BASES]
ENCODE += [
    (f"normalizer {name}", base, {"normalizer": normalizer})
    for name, base, normalizer in [
        *[(form, "llama2", {"type": form}) for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")],
        ("Strip", "metaspace-first", {"type": "Strip", "strip_left": True, "strip_right": True}),
        ("that removes the start", "metaspace-first", replace({"Regex": "^ +"}, "")),
        ("that removes accents", "metaspace-first", several("normalizers", {"type": "NFD"}, {"type": "StripAccents"})),
        ("Prepend", "metaspace-first", several("normalizers", {"type": "Prepend", "prepend": "x$&"}, {"type": "Lowercase"})),
        ("bert", "wordpiece", bert(True, True, False, False)),
        ("bert that keeps controls", "wordpiece", bert(False, False, True, False)),
        ("bert that lowers", "llama2", bert(True, True, None, True)),
        ("bert that only lowers", "llama2", bert(False, True, False, True)),
    ]
]
ENCODE += [
    (f"pre-tokenizer {name}", "llama2", {"normalizer": None, "pre_tokenizer": pre})
    for name, pre in [
        ("Whitespace", {"type": "Whitespace"}),
        ("FixedLength", {"type": "FixedLength", "length": 3}),
        ("Punctuation", {"type": "Punctuation", "behavior": "MergedWithNext"}),
        ("ByteLevel", BYTES),
        ("ByteLevel without pattern", {**BYTES, "use_regex": False}),
        ("WhitespaceSplit, Metaspace", several("pretokenizers", {"type": "WhitespaceSplit"}, metaspace("first"))),
        ("Digits, Punctuation, Metaspace", several("pretokenizers", {"type": "Digits", "individual_digits": True},
                                                   {"type": "Punctuation", "behavior": "Contiguous"}, metaspace("always"))),
        ("inverted", {"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "MergedWithPrevious", "invert": True}),
        ("String", {"type": "Split", "pattern": {"String": "a"}, "behavior": "MergedWithNext", "invert": False}),
        ("with empty matches", {"type": "Split", "pattern": {"Regex": "[一-龥ぁ-ん]|\\s+|\\b"}, "behavior": "Isolated", "invert": False}),
    ]
]


def token(content, id, **flags):
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"id": id, "content": content, **usual, **flags}


for base in ("llama2", "wordlevel", "unigram", "llama3"):
    n = Tokenizer.from_str(json.dumps(BASES[base])).get_vocab_size()
    more = [token("abq", n, rstrip=True, lstrip=True), token(" b", n + 1), token("babq", n + 2, single_word=True),
            token(" \t", n + 3, normalized=False), token("Привет", n + 4, rstrip=True)]
    ENCODE.append((f"added tokens of {base}", base, {"added_tokens": BASES[base]["added_tokens"] + more}))

FRAME = [
    (f"post-processor {name}", base, {"post_processor": post})
    for name, base, post in [
        ("RoBERTa", "wordlevel", {"type": "RobertaProcessing", "sep": SEP, "cls": CLS, "trim_offsets": True, "add_prefix_space": False}),
        ("BERT", "wordlevel", {"type": "BertProcessing", "sep": SEP, "cls": CLS}),
        ("none", "wordpiece", None),
        ("BERT, ByteLevel", "wordlevel", several("processors", {"type": "BertProcessing", "sep": SEP, "cls": CLS}, BYTES)),
    ]
] + [("pairs of " + name, name, {}) for name in ("llama2", "wordpiece", "llama3", "unigram")]

DECODE = [(name, name, {}) for name in BASES if not name.startswith("cut-")]
DECODE += [
    (f"decoder {name} of {base}", base, {"decoder": decoder})
    for base in ("llama2", "wordlevel", "unigram-fallback")
    for name, decoder in [
        ("none", None),
        ("CTC", {"type": "CTC", "pad_token": "<unk>", "word_delimiter_token": "a", "cleanup": True}),
        ("CTC as it is", {"type": "CTC", "pad_token": "a", "word_delimiter_token": "t", "cleanup": False}),
        ("BPEDecoder", {"type": "BPEDecoder", "suffix": "e"}),
        ("WordPiece", {"type": "WordPiece", "prefix": "t", "cleanup": True}),
        ("Strip", {"type": "Strip", "content": "▁", "start": 1, "stop": 0}),
        ("bytes joined, stripped", several("decoders", FALLBACK, FUSE, {"type": "Strip", "content": "▁", "start": 2, "stop": 0})),
        ("bytes joined, pattern", several("decoders", replace({"String": "▁"}, " "), FALLBACK, FUSE, replace({"Regex": "[aeiou]+"}, "$1"))),
        ("ByteLevel", BYTES),
        ("joined, Metaspace", several("decoders", FUSE, metaspace("always"))),
    ]
]
DECODE += [entry for entry in ENCODE if entry[0].startswith("added tokens")]


def attempt(work):
    try:
        return work()
    except BaseException:  # panics of the library, too
        return None


entries = {}


def entry(name, base, change):
    made = Tokenizer.from_str(json.dumps({**BASES[base], **change}))
    return made, entries.setdefault(name, {"name": name, "base": base, "change": change})


for spec in ENCODE:
    made, out = entry(*spec)
    out["encoded"] = [attempt(lambda: made.encode(text, add_special_tokens=False).ids) for text in TEXTS]
for spec in FRAME:
    made, out = entry(*spec)
    out["framed"] = []
    for text in TEXTS[2 : 2 + FRAMED]:
        pair = made.encode(text, "a b")
        out["framed"].append([text, made.encode(text).ids, pair.ids, pair.type_ids])
for spec in DECODE:
    made, out = entry(*spec)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made)
    n = made.get_vocab_size()
    out["decoded"] = []
    for _ in range(30):
        ids = [RNG.randrange(n + 5) if RNG.random() < 0.7 else RNG.randrange(min(n, 270)) for _ in range(RNG.randint(0, 9))]
        text = attempt(lambda: made.decode(ids, skip_special_tokens=False))
        if text is None:
            continue
        cleaned = wrapped.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=True)
        out["decoded"].append([ids, text, made.decode(ids), cleaned])

with open(os.path.join(HERE, "odd.jsonl"), "w", encoding="utf-8") as f:
    for line in [TEXTS, *entries.values()]:
        f.write(json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n")
