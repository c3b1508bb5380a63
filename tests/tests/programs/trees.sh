# Trees are removed and made again under the same names, moved, emptied while they are listed, and packed.
export LC_ALL=C
rm -rf comfy
ls -d comfy 2>&1 || true
mkdir comfy
ls -A comfy
echo new > comfy/utils.py
rm -rf comfy
echo a file > comfy
rm comfy
ln -s custom_nodes comfy
ls comfy/
rm comfy
mkdir -p comfy/utils.py/deep
rm -rf models
mkdir -p models/checkpoints
ls -A models/checkpoints
echo again > models/checkpoints/a.safetensors
cp -r custom_nodes/patterns saved
rm -r custom_nodes/patterns
cp -r saved custom_nodes/patterns
diff -r saved custom_nodes/patterns && echo the same
mv custom_nodes nodes
mkdir custom_nodes
mv nodes/plain custom_nodes/
mv -T nodes custom_nodes/rest
mv custom_nodes/rest/patterns/__init__.py custom_nodes/plain/__init__.py
mv app saved/
mv saved/app .
find comfy_extras -type f -delete
rmdir comfy_extras
mv script_examples comfy_extras
ls comfy_extras
zip -qry "$SIDE/all.zip" custom_nodes app
zip -qry inside.zip custom_nodes app
unzip -tq inside.zip | sed 's/ of .*//'
unzip -q inside.zip -d unzipped
diff -r custom_nodes unzipped/custom_nodes && echo the same
unzip -qo "$SIDE/all.zip"
rm inside.zip
rm -rf ./unzipped ./saved
find . -type d | sort
