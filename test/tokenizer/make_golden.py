"""Writes golden.jsonl: small tokenizers of each kind and what Python's `tokenizers` 0.23.2 makes of random text.

    python -m venv venv && venv/bin/pip install tokenizers==0.23.2
    venv/bin/python test/tokenizer/make_golden.py

Training is not deterministic: each run writes other vocabularies of the same kinds.
One line for each tokenizer: {name, json, cases: [[text, ids, ids with special tokens, decoded, decoded skipping]]}.
`json` is null for the one that lies in models/storyteller.
"""
import json, os, random
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
STORY = os.path.join(HERE, "../../models/storyteller")
TEXT = open(os.path.join(STORY, "README.md"), encoding="utf-8").read().split("\n")[:60] + [
    "héllo wörld, ça va? naïve café", "日本語のテキスト、中文文本。", "Привет, мир! Как дела?", "don't can't we're I've",
    "12345 67 890 ½ ٣٤", "emoji 👩‍👩‍👧 🎉🎉 ok", "  two  spaces   three", "a\tb\nc\r\n", "x = y + z; // code",
]
POOL = list("abcdefghijklmnopqrstuvwxyz ABC 012 .,!?'\"-_()\n\t  ") + list("éüñßçπжя日本語中文한국٣²½") + [
    "👩‍👩‍👧", "🎉", "e\u0301", "\u200d", "\ufeff", "\u0085", "\u3000", "\ufffd", "\u0000", "\u00ad", "$", "$&", "ﬁ", "\u2581",
    " the", " and", "ing", "Once upon a time", "'s", "n't", " .", " ,", "<s>", "</s>", "<x>", "[MASK]", "<|endoftext|>",
]
FIXED = ["", " ", "Hello world", "héllo", "Hey!! (you)", "a  b   c", "<s>Hello</s> world", "a<x>b <x> c", " <s> ", "123 4567", "▁a ▁▁b"]


def bpe(train_pre=None, size=400, **kw):
    t = Tokenizer(models.BPE(**kw))
    if train_pre is not None:
        t.pre_tokenizer = train_pre
    return t


def train(t, trainer):
    t.train_from_iterator(TEXT, trainer)  # TEXT at the time of the call
    return t


BYTES = [f"<0x{i:02X}>" for i in range(256)]
SPECIAL = ["<unk>", "<s>", "</s>"]
out = []


def add(name, t, stored=True):
    rng = random.Random(name)
    texts = FIXED + ["".join(rng.choice(POOL) for _ in range(rng.randint(1, 25))) for _ in range(60)]
    cases = []
    for text in texts:
        ids = t.encode(text, add_special_tokens=False).ids
        full = t.encode(text).ids
        cases.append([text, ids, full, t.decode(full, skip_special_tokens=False), t.decode(full)])
    out.append({"name": name, "json": json.loads(t.to_str()) if stored else None, "cases": cases})


add("storyteller", Tokenizer.from_file(os.path.join(STORY, "tokenizer.json")), stored=False)

t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
t.normalizer = normalizers.BertNormalizer(lowercase=True)
t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
t.decoder = decoders.WordPiece()
train(t, trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
t.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[(x, t.token_to_id(x)) for x in ("[CLS]", "[SEP]")])
add("wordpiece", t)

for name, pre, fallback in [
    ("unigram", pre_tokenizers.Metaspace(), False),
    ("unigram-split", pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]), False),
    ("unigram-fallback", pre_tokenizers.Metaspace(prepend_scheme="first"), True),
]:
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre
    t.decoder = decoders.Metaspace()
    train(t, trainers.UnigramTrainer(vocab_size=350, special_tokens=SPECIAL + (BYTES if fallback else []), unk_token="<unk>"))
    if fallback:
        data = json.loads(t.to_str())
        data["model"]["byte_fallback"] = True
        data["added_tokens"] = [a for a in data["added_tokens"] if a["content"] in SPECIAL]
        t = Tokenizer.from_str(json.dumps(data))
        t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    add(name, t)

llama = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
train(llama, trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL + BYTES, limit_alphabet=60))
data = json.loads(llama.to_str())
data["added_tokens"] = [a for a in data["added_tokens"] if a["content"] in SPECIAL]
llama = Tokenizer.from_str(json.dumps(data))
llama.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
llama.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
add("llama2", llama)

for scheme, split in [("first", False), ("never", True), ("always", True)]:
    data = json.loads(llama.to_str())
    t = Tokenizer.from_str(json.dumps(data))
    t.normalizer = None
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme, split=split)])
    add(f"metaspace-{scheme}", t)

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
t = bpe(ignore_merges=True)
t.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
t.decoder = decoders.ByteLevel()
train(t, trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
t.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True, lstrip=True, rstrip=True)])
t.add_tokens([AddedToken("<x>", single_word=True, normalized=False)])
t.post_processor = processors.Sequence([
    processors.ByteLevel(trim_offsets=True),
    processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", t.token_to_id("<s>"))])])
add("llama3", t)

t = Tokenizer(models.WordLevel(unk_token="<unk>"))
t.pre_tokenizer = pre_tokenizers.Whitespace()
train(t, trainers.WordLevelTrainer(vocab_size=200, special_tokens=SPECIAL))
add("wordlevel", t)

# The vocabulary knows no boundaries, so that the pre-tokenizer's cuts show in the ids.
NOISE = random.Random(0)
TEXT = ["".join(NOISE.choice("aeb12\u0663\u00bd!., \u0085") for _ in range(40)) for _ in range(200)]
FIXED += TEXT[:20]
free = train(bpe(unk_token="<unk>"), trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, max_token_length=6))
CUTS = {
    "bert": pre_tokenizers.BertPreTokenizer(),
    "digits": pre_tokenizers.Digits(individual_digits=False),
    "digits-individual": pre_tokenizers.Digits(individual_digits=True),
    "punctuation": pre_tokenizers.Punctuation(),
    "punctuation-contiguous": pre_tokenizers.Punctuation(behavior="contiguous"),
    "char-delimiter": pre_tokenizers.CharDelimiterSplit("e"),
}
for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
    CUTS[f"split-{behavior}"] = pre_tokenizers.Split(Regex("[aeiou ]"), behavior)
CUTS["split-inverted"] = pre_tokenizers.Split(Regex("[aeiou ]"), "removed", invert=True)
for name, pre in CUTS.items():
    t = Tokenizer.from_str(free.to_str())
    t.pre_tokenizer = pre
    t.decoder = decoders.Fuse()
    add(f"cut-{name}", t)

with open(os.path.join(HERE, "golden.jsonl"), "w", encoding="utf-8") as f:
    for entry in out:
        f.write(json.dumps(entry, ensure_ascii=True, separators=(",", ":")) + "\n")
