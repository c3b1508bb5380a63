# rsync, cp and tar, out of the version and back into it: hard links, holes, attributes, times.
export LC_ALL=C
mkdir made
echo linked > made/a
ln made/a made/b
ln custom_nodes/plain/nodes.py made/nodes.py
ln -s ../main.py made/link
ln -s nowhere made/dangling
mkfifo made/pipe
truncate -s 3M made/sparse
printf end | dd of=made/sparse bs=1 seek=2M conv=notrunc status=none
setfattr -n user.note -v 'of a new file' made/a
setfattr -n user.note -v 'of a file of the version' main.py
setfattr -n user.note -v 'of a directory of the version' comfy
touch -d '2001-02-03 04:05:06.789' made/a comfy/utils.py
chmod 4750 made/b
blocks() { [ "$(($(stat -c %b "$1") * 512))" -lt 100000 ] && echo "$1 has holes"; }
blocks made/sparse

rsync -aHAX --sparse ./ "$SIDE/out/"
rsync -aHAXc --dry-run --itemize-changes --delete ./ "$SIDE/out/"
rsync -aHAX --sparse --exclude=/back "$SIDE/out/" back/
rsync -aHAXc --dry-run --itemize-changes --delete "$SIDE/out/" back/
(cd back && blocks made/sparse)
# Over what is there already, by replacing it and in place.
echo changed >> "$SIDE/out/nodes.py"
echo changed >> "$SIDE/out/execution.py"
rm "$SIDE/out/server.py"
rsync -aHAXi --exclude=/back --delete "$SIDE/out/" ./ | grep -v '^\.d'
rsync -aHAXi --exclude=/back --inplace --no-whole-file "$SIDE/out/" ./

mkdir "$SIDE/copied"
cp -a --reflink=auto . "$SIDE/copied/"
diff -r --no-dereference -x pipe . "$SIDE/copied" && echo the same
cp -a --reflink=auto "$SIDE/copied/comfy" again
cp --reflink=auto models/checkpoints/a.safetensors models/checkpoints/b.safetensors
cp --reflink=auto models/checkpoints/b.safetensors models/checkpoints/a.safetensors
cp -a --sparse=auto made/sparse made/sparse2
blocks made/sparse2
cp -al comfy linked

tar --xattrs -S -cf "$SIDE/all.tar" --sort=name --exclude=./back .
mkdir unpacked
tar --xattrs -S -xpf "$SIDE/all.tar" -C unpacked
tar --xattrs -df "$SIDE/all.tar" -C unpacked
(cd unpacked && blocks made/sparse)
tar --xattrs -S -xpf "$SIDE/all.tar"
tar --xattrs -df "$SIDE/all.tar"
rm -r "$SIDE/out" "$SIDE/copied"
