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
for package in fastest-levenshtein @huggingface/tokenizers; do
  cp -rL "node_modules/$package" "$folder/node_modules/$package"
done

# The Vulkan loader, and what NVIDIA's driver links to where there is no desktop: this machine's own, or Debian's packages.
library() { # name package
  file=$(ldconfig -p | sed -n "s|.*[[:space:]]$1 .*x86-64.* => ||p;s|.*[[:space:]]$1 .*AArch64.* => ||p" | head -n 1)
  if [ -z "$file" ] && [ -n "$2" ]; then
    (cd "$work" && apt-get download "$2" >/dev/null 2>&1 && dpkg -x "$2"_*.deb loader) || true
    file=$(ls "$work"/loader/usr/lib/*/"$1" "$work"/loader/lib/*/"$1" 2>/dev/null | head -n 1 || true)
  fi
  if [ -n "$file" ]; then cp -L "$file" "$folder/lib/$1"; else echo "note: no $1 to carry" >&2; fi
}
library libvulkan.so.1 libvulkan1
library libGLdispatch.so.0 libglvnd0
library libEGL.so.1 libegl1
library libGLX.so.0 libglx0
library libGL.so.1 libgl1
library libX11.so.6 libx11-6
library libXext.so.6 libxext6
library libxcb.so.1 libxcb1
library libXau.so.6 libxau6
library libXdmcp.so.6 libxdmcp6
library libbsd.so.0 libbsd0
library libmd.so.0 libmd0
[ -f "$folder/lib/libvulkan.so.1" ] || { echo "no Vulkan loader (apt-get update, then again)" >&2; exit 1; }

tar -C "$work" -cf - octavo-gpu | xz -T0 -6 >"$archive"
size=$(wc -c <"$archive")
echo "$archive: $((size / 1048576)) MiB"
if [ "$size" -gt 67108864 ]; then echo "warning: above 64 MiB, too much for some ways to carry it" >&2; fi
