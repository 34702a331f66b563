"""What Python's `tokenizers` makes of random texts: `node scripts/check-tokenizers.mjs` writes the job and calls this.

The job is JSON: {texts, story, kinds: [{name, opener, folder, out}]}. Each `out` becomes a line of {} or {skipped: reason}, then lines of
[text, ids, ids without special tokens, decoded, decoded without special tokens, random ids, those decoded].
"""
import base64, json, os, random, sys, types, unicodedata, warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
warnings.filterwarnings("ignore")
from tokenizers import Tokenizer
from transformers import AutoTokenizer

PIECES = ["👩‍👩‍👧", "🎉", "e\u0301", "\u200d", "\ufeff", "\u0085", "\u3000", "\ufffd", "\u0000", "\u00ad", "ﬁ", "\u2581", "\r\n", "\t", "  ", " ",
          "\U0001F1E9\U0001F1EA", "ก็", "क्षि", "～", "``", "''", "\u00a0", "İ", "Σ", "ς", "½", "٣", "日本語", "Привет", "'s", "n't", " .", ",", "<s>",
          "</s>", "<mask>", "<unk>", "[MASK]", "[CLS]", "<|endoftext|>", "<user>", "$&", "123", "1,000", "THE", "a" * 40, "ab" * 25]


def text_of(rng, story, tokens):
    kind = rng.random()
    if kind < 0.2:
        line = rng.choice(story)
        return line[rng.randrange(len(line) + 1):][:rng.randint(1, 300)]
    if kind < 0.3:
        # Characters older than the tables of the library, whose classes differ between versions of Unicode.
        chars = (chr(rng.choice([rng.randrange(0x20, 0x2FFF), rng.randrange(0xA000, 0xD7FF), rng.randrange(0xF900, 0x1FFFF)]))
                 for _ in range(rng.randint(1, 60)))
        return "".join(c for c in chars if unicodedata.ucd_3_2_0.category(c) != "Cn")
    letters = "abcdefghijklmnopqrstuvwxyzABC 012.,!?'\"-_()\n éüñß"
    parts = []
    for _ in range(rng.randint(1, 25)):
        which = rng.random()
        parts.append(rng.choice(letters) if which < 0.5 else rng.choice(PIECES) if which < 0.8 else rng.choice(tokens))
    return "".join(parts)


def load_tiktoken(path):
    lines = (line.split() for line in open(path, "rb") if line.strip())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def opened(kind):
    """An encoder (text, special) -> ids, a decoder (ids, skip) -> text, and a Tokenizer."""
    if kind["opener"] == "tokenizers":
        own = Tokenizer.from_file(os.path.join(kind["folder"], "tokenizer.json"))
    elif kind["opener"] == "tiktoken":
        if "tiktoken" not in sys.modules:
            try:
                import tiktoken.load  # noqa: F401
            except ImportError:  # only its reader of files is used
                sys.modules["tiktoken"] = types.ModuleType("tiktoken")
                sys.modules["tiktoken.load"] = types.ModuleType("tiktoken.load")
                sys.modules["tiktoken.load"].load_tiktoken_bpe = load_tiktoken
        from transformers.convert_slow_tokenizer import TikTokenConverter
        added = json.load(open(os.path.join(kind["folder"], "tokenizer_config.json")))["added_tokens_decoder"]
        names = [added[key]["content"] for key in sorted(added, key=int)]
        own = TikTokenConverter(os.path.join(kind["folder"], "tokenizer.model"), extra_special_tokens=names).converted()
    else:
        own = AutoTokenizer.from_pretrained(kind["folder"])
        return (lambda text, special: own.encode(text, add_special_tokens=special),
                lambda ids, skip: own.decode(ids, skip_special_tokens=skip), own.get_vocab())
    return (lambda text, special: own.encode(text, add_special_tokens=special).ids,
            lambda ids, skip: own.decode(ids, skip_special_tokens=skip), own.get_vocab())


def main():
    job = json.load(open(sys.argv[1]))
    story = open(job["story"], encoding="utf-8").read().split("\n")
    for kind in job["kinds"]:
        with open(kind["out"], "w", encoding="utf-8") as out:
            try:
                encode, decode, vocabulary = opened(kind)
            except (ImportError, ValueError) as error:
                print(json.dumps({"skipped": str(error).strip().split("\n")[0]}), file=out)
                continue
            print("{}", file=out)
            # <FILL_ME> asks CodeLlama's class for infilling, which Octavo does not have.
            tokens, ids = sorted(set(vocabulary) - {"<FILL_ME>"}), sorted(vocabulary.values())
            rng = random.Random(kind["name"])
            for _ in range(job["texts"]):
                text = text_of(rng, story, tokens)
                framed, plain = encode(text, True), encode(text, False)
                loose = [rng.choice(ids) for _ in range(rng.randint(1, 12))]
                case = [text, framed, plain, decode(framed, False), decode(framed, True), loose, decode(loose, False)]
                print(json.dumps(case, separators=(",", ":")), file=out)


main()
