/* The copy of linux-libc-dev, which stands later on the include path. */
#include_next <linux/if_packet.h>
