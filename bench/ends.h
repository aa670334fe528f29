/* What the programs that make traffic have in common: where an end is, and what it counts. */
#ifndef OVERWEAVE_ENDS_H
#define OVERWEAVE_ENDS_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define SMALL 18 /* bytes: fills the shortest Ethernet frame */
#define REQUEST 64
#define RECEIVE_BUFFER (8 << 20)

static void
die(const char *doing)
{
	fprintf(stderr, "%s: %s\n", doing, strerror(errno));
	exit(1);
}

static int
must(int result, const char *doing)
{
	if (result < 0)
		die(doing);
	return result;
}

static uint64_t
now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static double
busy_seconds(void)
{
	unsigned long long user, nice, system, idle, iowait, irq, softirq;
	FILE *stat = fopen("/proc/stat", "r");

	if (!stat || fscanf(stat, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle,
			    &iowait, &irq, &softirq) != 7)
		die("/proc/stat");
	fclose(stat);
	return (double)(user + nice + system + irq + softirq) / sysconf(_SC_CLK_TCK);
}

static void
enter(const char *netns)
{
	int fd = must(open(netns, O_RDONLY | O_CLOEXEC), netns);

	must(setns(fd, CLONE_NEWNET), netns);
	close(fd);
}

static void
stay_on(int last)
{
	cpu_set_t allowed, one;
	int cpu, found = -1;

	must(sched_getaffinity(0, sizeof(allowed), &allowed), "sched_getaffinity");
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && (last || found < 0))
			found = cpu;
	CPU_ZERO(&one);
	CPU_SET(found, &one);
	must(sched_setaffinity(0, sizeof(one), &one), "sched_setaffinity");
}

static void
enlarge(int receiver)
{
	int bytes = RECEIVE_BUFFER;

	must(setsockopt(receiver, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)), "buffer");
}

static void
make_batch(struct mmsghdr *messages, struct iovec *parts, char *buffer)
{
	int i;

	memset(messages, 0, BATCH * sizeof(*messages));
	for (i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){buffer + i * REQUEST, SMALL};
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
}

/* Until the process is killed. */
static void
count_datagrams(int receiver, volatile uint64_t *received)
{
	static char buffer[BATCH * REQUEST];
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];

	make_batch(messages, parts, buffer);
	for (;;) {
		int count = recvmmsg(receiver, messages, BATCH, MSG_WAITFORONE, NULL);

		if (count > 0)
			*received += count;
	}
}

#endif
