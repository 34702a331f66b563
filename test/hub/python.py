"""The Hugging Face cache as huggingface_hub sees it; python.test.ts runs this beside a fake hub, which HF_ENDPOINT names.

    python python.py download CACHE    downloads org/tiny by snapshot_download, file by file patterns
    python python.py look CACHE        prints what the library finds in a cache that Octavo has filled, without network
"""

import json
import sys

from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache

NEEDED = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def download(cache):
    snapshot_download("org/tiny", cache_dir=cache, allow_patterns=NEEDED)
    try:
        hf_hub_download("org/tiny", "chat_template.jinja", cache_dir=cache)
    except Exception:  # there is no such file, which the cache notes
        pass


def look(cache):
    scan = scan_cache_dir(cache)
    (repo,) = scan.repos
    (revision,) = repo.revisions
    folder = snapshot_download("org/tiny", cache_dir=cache, local_files_only=True)
    files = {name: open(hf_hub_download("org/tiny", name, cache_dir=cache, local_files_only=True), "rb").read() for name in NEEDED}
    absent = try_to_load_from_cache("org/tiny", "chat_template.jinja", cache_dir=cache)
    json.dump(
        {
            "warnings": [str(warning) for warning in scan.warnings],
            "id": repo.repo_id,
            "bytes": repo.size_on_disk,
            "files": sorted(file.file_name for file in revision.files),
            "commit": revision.commit_hash,
            "refs": sorted(revision.refs),
            "folder": folder,
            "sizes": {name: len(content) for name, content in files.items()},
            "absent": type(absent).__name__,
        },
        sys.stdout,
    )


{"download": download, "look": look}[sys.argv[1]](sys.argv[2])
