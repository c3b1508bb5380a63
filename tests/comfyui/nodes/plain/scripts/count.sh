#!/bin/sh
# Counts the colours of the palette.
grep -o '\[' "$(dirname "$0")/../data/palette.json" | wc -l
