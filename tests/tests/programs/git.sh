# A clone over HTTP, commits, a second work tree, gc; and a repository of the whole version.
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.com GIT_AUTHOR_DATE='1700000000 +0000'
export GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.com GIT_COMMITTER_DATE='1700000000 +0000'
git() { command git -c pack.threads=1 -c init.defaultBranch=master -c advice.detachedHead=false "$@"; }
cd custom_nodes
git clone -q "$GIT/patterns.git" cloned
cd cloned
git -c protocol.file.allow=always submodule -q update --init
echo '# more' >> __init__.py
git status --short
git commit -qam more
git worktree add -q -b other ../second v0.1.0
echo other > ../second/other
git -C ../second add -A
git -C ../second commit -qm other
git -C ../second mv other renamed
git -C ../second commit -qm renamed
git gc -q --aggressive --prune=now
git fsck --full --strict --no-progress
git worktree list | sed 's|.*/||'
git merge -q -X ours --no-edit other
git checkout -q v0.1.0
git checkout -q -
git stash list
echo lost > untracked
git clean -fdqx
git log --format='%H %s' --all
git status --porcelain
git worktree remove ../second
git repack -adq --depth=1
git count-objects -v | grep -v size
cd "$TOP"
git init -q .
git add -A
git commit -qm everything
git status --porcelain
echo '# edited' >> main.py
mv nodes.py nodes2.py
git status --short
git checkout -q -- .
rm nodes2.py
git status --porcelain
git gc -q
git fsck --full --no-progress
git rev-parse HEAD^{tree}
