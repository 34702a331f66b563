#!/bin/sh
# Puts everything that run.sh needs into one archive: Node, Dawn, a Vulkan loader, the built package. See README.md.
#   bench/gpu/prepare.sh [archive]        (default: gpu-bench.tar.xz)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
archive=${1:-gpu-bench.tar.xz}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
folder=$work/octavo-gpu

cd "$root"
[ -f dist/index.js ] || npx --no-install tsc -p tsconfig.json
mkdir -p "$folder/bench/gpu" "$folder/node" "$folder/lib" "$folder/node_modules/webgpu/dist"
cp package.json "$folder/"
cp -r dist "$folder/"
find "$folder/dist" -name '*.map' -delete
find "$folder/dist" -name '*.d.ts' -delete
cp bench/gpu/*.mjs bench/gpu/*.py bench/gpu/*.sh "$folder/bench/gpu/"

cp "$(node -p process.execPath)" "$folder/node/node"
strip "$folder/node/node" 2>/dev/null || true

cp node_modules/webgpu/index.js node_modules/webgpu/package.json node_modules/webgpu/LICENSE.md "$folder/node_modules/webgpu/"
platform=$(node -p '`${process.platform}-${process.arch}`')
cp -r "node_modules/webgpu/dist/$platform" "$folder/node_modules/webgpu/dist/"
# The packages that the built code imports.
mkdir -p "$folder/node_modules/@huggingface"
for package in zod fastest-levenshtein @huggingface/tokenizers; do
  cp -rL "node_modules/$package" "$folder/node_modules/$package"
done
rm -rf "$folder/node_modules/zod/src"

# The Vulkan loader: this machine's own, or Debian's package.
loader=$(ls /usr/lib/*/libvulkan.so.1 /usr/lib64/libvulkan.so.1 2>/dev/null | head -n 1 || true)
if [ -z "$loader" ]; then
  (cd "$work" && apt-get download libvulkan1 && dpkg -x libvulkan1_*.deb loader)
  loader=$(ls "$work"/loader/usr/lib/*/libvulkan.so.1 | head -n 1)
fi
cp -L "$loader" "$folder/lib/libvulkan.so.1"

tar -C "$work" -cf - octavo-gpu | xz -T0 -6 >"$archive"
size=$(wc -c <"$archive")
echo "$archive: $((size / 1048576)) MiB"
if [ "$size" -gt 67108864 ]; then echo "warning: above 64 MiB, too much for some ways to carry it" >&2; fi
