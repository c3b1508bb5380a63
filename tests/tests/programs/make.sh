# A program is compiled with make; what is up to date stays so, with the times that files of a version have, too.
mkdir -p project
cd project
cat > one.c <<'C'
#include "both.h"
int one(void) { return NUMBER; }
C
cat > main.c <<'C'
#include <stdio.h>
#include "both.h"
int one(void);
int main(void) { printf("%d %d\n", one(), NUMBER); return 0; }
C
echo '#define NUMBER 1' > both.h
printf '%s\n' 'CFLAGS = -O0 -MMD' 'program: main.o one.o ../main.stamp' '	$(CC) -o $@ main.o one.o' \
    '../main.stamp: ../main.py' '	wc -l < $< > $@' '-include main.d one.d' > Makefile
make -s
./program
make
touch ../main.py
make
sed -i 's/1/2/' both.h
make -s
./program
make -q && echo up to date
# Archives and programs are written by mapping and seeking.
ar rcs lib.a one.o
gcc -o other main.o lib.a
./other
strip other
./other
