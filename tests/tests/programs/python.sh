# An environment, and packages by pip and uv into it and into a node.
export PIP_INDEX_URL="$INDEX" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
export UV_DEFAULT_INDEX="$INDEX" UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_CACHE_DIR="$SIDE/uv" UV_NO_CONFIG=1
python3 -m venv .venv
.venv/bin/pip install -q 'alpha==1.0'
.venv/bin/alpha-say
.venv/bin/pip install -q --upgrade alpha
.venv/bin/alpha-say
.venv/bin/pip install -q --target custom_nodes/plain/vendor beta
PYTHONPATH=custom_nodes/plain/vendor python3 -c 'import alpha, beta; print(alpha.VERSION, beta.VERSION)'
.venv/bin/pip install -q --target custom_nodes/plain/vendor --upgrade 'alpha==1.0'
PYTHONPATH=custom_nodes/plain/vendor python3 -c 'import alpha; print(alpha.VERSION)'
"$UV" pip install -q --python .venv 'beta==1.0'
.venv/bin/python -c 'import beta; print(beta.VERSION)'
"$UV" pip install -q --target custom_nodes/patterns/libs beta
PYTHONPATH=custom_nodes/patterns/libs python3 -c 'import alpha, beta; print(alpha.VERSION, beta.VERSION)'
.venv/bin/pip uninstall -q -y beta
.venv/bin/pip freeze
.venv/bin/pip check
"$UV" pip uninstall -q --python .venv alpha
.venv/bin/pip freeze
# A temporary file without a name is a named one here, which Python finds out by itself.
TMPDIR=$PWD python3 -c 'import tempfile; f = tempfile.TemporaryFile(); f.write(b"x" * 9000); print(f.tell())'
