/* bcc brings its own copy; the one of linux-libc-dev beside it would define everything twice. */
#include <bcc/bpf.h>
