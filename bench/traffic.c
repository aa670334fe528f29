/*
 * One load between two network namespaces, measured at the receiving end; run by bench/traffic.py:
 *
 *   traffic tcp|packets|requests CLIENT_NETNS SERVER_NETNS SERVER_IPV4 SECONDS STREAMS
 *
 * The sockets of both ends are made and connected by one process, which then divides: the client goes
 * on on the first processor that it may use, the server on the last. After a warm-up it prints what
 * passed in SECONDS, as JSON; "cpu" are the seconds that all processors of the machine were busy.
 */
#include "ends.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define WARM_UP_NS 200000000ULL
#define CONNECT_S 10
#define MAX_STREAMS 64
#define CHUNK (128 * 1024)
#define LOST_US 200000
#define CONGESTION "cubic" /* Linux's default, whatever this machine's is: bbr would pace */
#define MAX_ROUND_TRIPS (1 << 23)

static volatile uint64_t *received; /* bytes or packets; shared by both ends */
static int clients[MAX_STREAMS], servers[MAX_STREAMS];
static int streams;

/* Connect `clients` to `servers`. */
static void
connect_ends(int type, const char *client_netns, const char *server_netns, const char *ip)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t length = sizeof(address);
	int i, listener;

	if (inet_pton(AF_INET, ip, &address.sin_addr) != 1)
		die(ip);
	enter(server_netns);
	listener = must(socket(AF_INET, type, 0), "socket");
	must(bind(listener, (void *)&address, length), "bind");
	must(getsockname(listener, (void *)&address, &length), "getsockname");
	if (type == SOCK_STREAM)
		must(listen(listener, MAX_STREAMS), "listen");
	else
		enlarge(listener);
	enter(client_netns);
	for (i = 0; i < streams; i++) {
		clients[i] = must(socket(AF_INET, type, 0), "socket");
		if (type == SOCK_STREAM)
			must(setsockopt(clients[i], IPPROTO_TCP, TCP_CONGESTION, CONGESTION,
			                strlen(CONGESTION)), "congestion control");
		must(connect(clients[i], (void *)&address, length), "connect");
		servers[i] = type == SOCK_STREAM ? must(accept(listener, NULL, NULL), "accept") : listener;
	}
}

static int
watch(int *sockets, uint32_t events)
{
	int i, epoll = must(epoll_create1(0), "epoll_create1");

	for (i = 0; i < streams; i++) {
		struct epoll_event event = {.events = events, .data.fd = sockets[i]};

		must(fcntl(sockets[i], F_SETFL, O_NONBLOCK), "fcntl");
		must(epoll_ctl(epoll, EPOLL_CTL_ADD, sockets[i], &event), "epoll_ctl");
	}
	return epoll;
}

/* --- servers: until they are killed --- */

static void
serve_tcp(void)
{
	static char buffer[CHUNK];
	struct epoll_event ready[MAX_STREAMS];
	int epoll = watch(servers, EPOLLIN);

	for (;;) {
		int i, count = epoll_wait(epoll, ready, streams, -1);

		for (i = 0; i < count; i++) {
			ssize_t bytes = read(ready[i].data.fd, buffer, sizeof(buffer));

			if (bytes > 0)
				*received += bytes;
		}
	}
}

static void
serve_packets(void)
{
	count_datagrams(servers[0], received);
}

static void
serve_requests(void)
{
	struct sockaddr_in from;
	char request[REQUEST];

	for (;;) {
		socklen_t length = sizeof(from);
		ssize_t bytes = recvfrom(servers[0], request, sizeof(request), 0, (void *)&from, &length);

		if (bytes > 0)
			sendto(servers[0], request, bytes, 0, (void *)&from, length);
	}
}

/* --- clients: as much as they can, until `end` --- */

static void
send_tcp(uint64_t end)
{
	static char buffer[CHUNK];
	static int epoll = -1;
	struct epoll_event ready[MAX_STREAMS];

	if (epoll < 0)
		epoll = watch(clients, EPOLLOUT);
	while (now_ns() < end) {
		int i, count = epoll_wait(epoll, ready, streams, 1);

		for (i = 0; i < count; i++)
			if (send(ready[i].data.fd, buffer, sizeof(buffer), MSG_NOSIGNAL) < 0 && errno != EAGAIN)
				die("send");
	}
}

static void
send_packets(uint64_t end)
{
	static char buffer[BATCH * REQUEST];
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];

	make_batch(messages, parts, buffer);
	while (now_ns() < end)
		if (sendmmsg(clients[0], messages, BATCH, 0) < 0 && errno != ENOBUFS)
			die("sendmmsg");
}

static uint32_t round_trips[MAX_ROUND_TRIPS];
static int answered, lost;

static void
send_requests(uint64_t end)
{
	static uint64_t number;
	struct timeval patience = {.tv_usec = LOST_US};
	uint64_t request[REQUEST / sizeof(uint64_t)] = {}, answer[REQUEST / sizeof(uint64_t)], began;
	ssize_t bytes;

	must(setsockopt(clients[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), "timeout");
	answered = lost = 0;
	while ((began = now_ns()) < end && answered < MAX_ROUND_TRIPS) {
		request[0] = ++number;
		must(send(clients[0], request, sizeof(request), 0), "send");
		do /* an answer that comes too late is not this one's */
			bytes = recv(clients[0], answer, sizeof(answer), 0);
		while (bytes > 0 && answer[0] != number);
		if (bytes > 0)
			round_trips[answered++] = now_ns() - began;
		else
			lost++;
	}
}

static int
by_size(const void *one, const void *other)
{
	uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;

	return (a > b) - (a < b);
}

/* Nearest rank, as in bench/figures.py; microseconds. */
static double
percentile_us(int percent)
{
	int64_t rank = ((int64_t)answered * percent + 99) / 100;

	return answered ? round_trips[rank > 0 ? rank - 1 : 0] / 1000.0 : 0;
}

static void
print(uint64_t count, double seconds, double cpu)
{
	qsort(round_trips, answered, sizeof(*round_trips), by_size);
	printf("{\"received\": %llu, \"seconds\": %.6f, \"cpu\": %.2f, \"round_trips\": %d, \"lost\": %d,"
	       " \"p50_us\": %.3f, \"p99_us\": %.3f}\n",
	       (unsigned long long)count, seconds, cpu, answered, lost, percentile_us(50), percentile_us(99));
}

struct load {
	const char *name;
	int type;
	void (*serve)(void);
	void (*send)(uint64_t end);
};

static const struct load LOADS[] = {
	{"tcp", SOCK_STREAM, serve_tcp, send_tcp},
	{"packets", SOCK_DGRAM, serve_packets, send_packets},
	{"requests", SOCK_DGRAM, serve_requests, send_requests},
};

static void
measure(const struct load *load, double seconds)
{
	uint64_t began, before;
	double busy;

	load->send(now_ns() + WARM_UP_NS);
	busy = busy_seconds();
	began = now_ns();
	before = *received;
	load->send(began + seconds * 1e9);
	print(*received - before, (now_ns() - began) / 1e9, busy_seconds() - busy);
}

int
main(int argc, char **argv)
{
	const struct load *load = NULL;
	pid_t parent = getpid(), server;
	double seconds;
	size_t i;

	for (i = 0; argc == 7 && i < sizeof(LOADS) / sizeof(*LOADS); i++)
		if (!strcmp(argv[1], LOADS[i].name))
			load = &LOADS[i];
	streams = load ? atoi(argv[6]) : 0;
	if (streams < 1 || streams > MAX_STREAMS || (load->type == SOCK_DGRAM && streams > 1)) {
		fprintf(stderr, "usage: see the head of bench/traffic.c\n");
		return 2;
	}
	seconds = atof(argv[5]);
	alarm(CONNECT_S + seconds);
	received = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (received == MAP_FAILED)
		die("mmap");
	connect_ends(load->type, argv[2], argv[3], argv[4]);
	server = must(fork(), "fork");
	if (server == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			return 1;
		stay_on(1);
		load->serve();
	}
	stay_on(0);
	measure(load, seconds);
	kill(server, SIGKILL);
	return 0;
}
