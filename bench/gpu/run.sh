#!/bin/sh
# GPU timings in one call, on a machine that may have nothing but a driver. See README.md beside this file.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

# Of the libraries that were carried along, those are used that the machine has not.
if [ -d "$root/lib" ]; then
  missing=$(mktemp -d)
  for file in "$root"/lib/*; do
    name=$(basename "$file")
    if ! ldconfig -p 2>/dev/null | grep -q "[[:space:]]$name "; then ln -s "$file" "$missing/$name"; fi
  done
  export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$missing"
fi

# The loader looks for drivers in /etc and /usr/share; containers have them elsewhere, or only the library.
if [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]; then
  standard=$(ls /etc/vulkan/icd.d/nvidia*.json /usr/share/vulkan/icd.d/nvidia*.json 2>/dev/null | head -n 1 || true)
  if [ -z "$standard" ]; then
    found=$(ls /usr/local/nvidia/share/vulkan/icd.d/nvidia*.json /usr/local/share/vulkan/icd.d/nvidia*.json 2>/dev/null | head -n 1 || true)
    if [ -z "$found" ]; then
      library=$(ldconfig -p 2>/dev/null | sed -n 's/.*libGLX_nvidia.so.0.* => //p' | head -n 1)
      if [ -n "$library" ]; then
        found=${TMPDIR:-/tmp}/octavo-nvidia-icd.json
        printf '{"file_format_version":"1.0.0","ICD":{"library_path":"%s","api_version":"1.3.0"}}\n' "$library" >"$found"
      fi
    fi
    if [ -n "$found" ]; then export VK_DRIVER_FILES="$found"; fi
  fi
fi
: "${XDG_RUNTIME_DIR:=${TMPDIR:-/tmp}}"
export XDG_RUNTIME_DIR

node=$root/node/node
[ -x "$node" ] || node=$(command -v node) || { echo "no Node: prepare the folder with bench/gpu/prepare.sh" >&2; exit 1; }
exec "$node" "$here/main.mjs" "$@"
