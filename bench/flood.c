/*
 * Tunnel packets as fast as one processor sends them and takes them in, measured in the pod that reads
 * those that are for it; run by bench/flood.py:
 *
 *   flood NETNS PROGRAM FRAME POD_NETNS UDP_PORT SECONDS
 *
 * PROGRAM is the pin of bench/inject.c, which runs in NETNS and makes some of the packets forged ones;
 * FRAME is one that is not, in hexadecimal. They are sent, and received by the NIC, on the last
 * processor that may be used, the pod reads on the first. After a warm-up it prints what passed in
 * SECONDS or little more, as JSON; "cpu" as in bench/traffic.c.
 */
#include "ends.h"

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define MAX_FRAME 2048
/* Before and after each call the kernel waits for all processors, which takes some 20 ms. */
#define WARM_UP (1 << 15)
#define AT_ONCE (1 << 19)

static volatile uint64_t *received; /* shared by both ends */
static uint8_t frame[MAX_FRAME];
static uint32_t frame_bytes;
static int program;

static int
receiver(const char *netns, const char *port)
{
	struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
	int made;

	enter(netns);
	made = must(socket(AF_INET6, SOCK_DGRAM, 0), "socket");
	must(bind(made, (void *)&address, sizeof(address)), "bind");
	enlarge(made);
	return made;
}

static int
pinned(const char *path)
{
	union bpf_attr attr = {.pathname = (uintptr_t)path};

	return must(syscall(SYS_bpf, BPF_OBJ_GET, &attr, sizeof(attr)), path);
}

static void
read_frame(const char *hex)
{
	while (frame_bytes < MAX_FRAME && sscanf(hex + 2 * frame_bytes, "%2hhx", &frame[frame_bytes]) == 1)
		frame_bytes++;
}

/* Frames in pages of a driver, without a buffer of the kernel: BPF_F_TEST_XDP_LIVE_FRAMES. */
static void
send_at_once(uint32_t count)
{
	struct xdp_md context = {.data_end = frame_bytes};
	union bpf_attr attr = {.test = {.prog_fd = program,
					.data_size_in = frame_bytes,
					.data_in = (uintptr_t)frame,
					.repeat = count,
					.ctx_size_in = sizeof(context),
					.ctx_in = (uintptr_t)&context,
					.flags = BPF_F_TEST_XDP_LIVE_FRAMES,
					.batch_size = BATCH}};

	must(syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)), "BPF_PROG_TEST_RUN");
}

static void
measure(double seconds)
{
	uint64_t began, before, sent = 0;
	double busy;

	send_at_once(WARM_UP);
	busy = busy_seconds();
	began = now_ns();
	before = *received;
	for (; now_ns() < began + seconds * 1e9; sent += AT_ONCE)
		send_at_once(AT_ONCE);
	printf("{\"sent\": %llu, \"received\": %llu, \"seconds\": %.6f, \"cpu\": %.2f}\n",
	       (unsigned long long)sent, (unsigned long long)(*received - before),
	       (now_ns() - began) / 1e9, busy_seconds() - busy);
}

int
main(int argc, char **argv)
{
	pid_t parent = getpid(), reader;
	int pod;

	if (argc != 7) {
		fprintf(stderr, "usage: see the head of bench/flood.c\n");
		return 2;
	}
	received = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (received == MAP_FAILED)
		die("mmap");
	program = pinned(argv[2]);
	read_frame(argv[3]);
	pod = receiver(argv[4], argv[5]);
	enter(argv[1]);
	reader = must(fork(), "fork");
	if (reader == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			return 1;
		stay_on(0);
		count_datagrams(pod, received);
	}
	stay_on(1);
	measure(atof(argv[6]));
	kill(reader, SIGKILL);
	return 0;
}
