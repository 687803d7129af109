/* SPDX-License-Identifier: Apache-2.0
 *
 * iscsiload: an iSCSI load generator on libiscsi. One thread, one poll loop, S sessions with QD commands each.
 * `python -m tools.bench iscsi` compiles it into a temporary folder:  cc -O2 -Wall -o iscsiload iscsiload.c -liscsi
 *
 * iscsiload [-s sessions] [-q depth] [-b bytes] [-m r|w|PERCENT-READS] [-p rand|seq] [-t seconds] [-w warm-up]
 *           [-n commands] [-D none|hdr] [-P pid] [-S seed] [-V] [-R] URL
 *
 *  -n  end after so many commands even if the time is not over
 *  -P  also report the CPU that process used (all of its threads) within the measured time
 *  -V  stamp what is written and check what is read: each 8 bytes hold their own offset and how often the block was
 *      written. No two commands under way touch one block, so a read has to give exactly the last generation written.
 *      Blocks whose generation is not known yet have to be all zero, or stamped with one generation throughout.
 *  -R  be patient: let libiscsi reconnect, and repeat commands that end with BUSY, TASK SET FULL, a unit attention,
 *      ABORTED COMMAND or with their connection
 *
 * Prints one JSON object; exit status 0, 1 when commands failed or data were wrong, 2 for usage and set-up.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#define OFFSET_BITS 40
#define OFFSET_MASK ((1ull << OFFSET_BITS) - 1)
#define MOST_RETRIES 1000
#define MOST_LATENCIES 20000000u

struct session;

struct request {
	struct session *session;
	unsigned char *buffer;
	struct scsi_iovec iov;
	uint64_t started_ns, block;
	uint32_t generation;
	int reading, retries;
};

struct session {
	struct iscsi_context *context;
	struct request *requests;
	uint64_t next, completed; /* completed: within the measured time */
	int lun, inflight;
};

static int sessions = 1, depth = 32, reads_percent = 100, randomly = 1, verify, header_digest, patient, target_pid;
static size_t bytes = 4096;
static double seconds = 5, warm_up = 1;
static uint64_t most_commands = UINT64_MAX;

static uint64_t capacity, blocks;
static uint32_t block_length;
static uint32_t *generations; /* 0: not known */
static unsigned char *busy;
static uint32_t *latencies; /* in 0.1 us */
static size_t latency_count;
static uint64_t all_done, measured, measured_reads, errors, wrong, retries, seed = 88172645463325252ull;
static int measuring, stopping;

static uint64_t now_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static uint64_t chance(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void submit(struct request *request);

/* -- verification ------------------------------------------------------------------------------------------------ */

static void stamp(struct request *request)
{
	uint64_t *word = (uint64_t *)request->buffer, offset = request->block * bytes;
	for (size_t i = 0; i < bytes / 8; i++)
		word[i] = (uint64_t)request->generation << OFFSET_BITS | ((offset + 8 * i) & OFFSET_MASK);
}

static void check(struct request *request)
{
	const uint64_t *word = (const uint64_t *)request->buffer, offset = request->block * bytes;
	uint32_t expected = generations[request->block], found = word[0] >> OFFSET_BITS;
	int zero = !expected && !found;
	for (size_t i = 0; i < bytes / 8; i++) {
		uint64_t want = (uint64_t)(expected ? expected : found) << OFFSET_BITS | ((offset + 8 * i) & OFFSET_MASK);
		if (word[i] == (zero ? 0 : want))
			continue;
		if (wrong++ < 3)
			fprintf(stderr, "wrong data at byte %llu: %016llx, not %016llx\n",
				(unsigned long long)(offset + 8 * i), (unsigned long long)word[i],
				(unsigned long long)(zero ? 0 : want));
		return;
	}
	if (!expected)
		generations[request->block] = found;
}

/* -- commands ---------------------------------------------------------------------------------------------------- */

static int worth_another_try(int status, const struct scsi_task *task)
{
	if (status == SCSI_STATUS_BUSY || status == SCSI_STATUS_TASK_SET_FULL || status == SCSI_STATUS_CANCELLED ||
	    status == SCSI_STATUS_ERROR || status == SCSI_STATUS_TIMEOUT)
		return 1;
	return status == SCSI_STATUS_CHECK_CONDITION && task &&
	       (task->sense.key == SCSI_SENSE_UNIT_ATTENTION || task->sense.key == SCSI_SENSE_COMMAND_ABORTED);
}

static void issue(struct session *session, struct request *request)
{
	uint64_t block;
	int tries = 0;
	do {
		block = randomly ? chance() % blocks : session->next++ % blocks;
	} while (verify && busy[block] && ++tries < 1000);
	request->reading = reads_percent == 100 || (reads_percent && (int)(chance() % 100) < reads_percent);
	request->block = block;
	request->retries = 0;
	if (verify) {
		busy[block] = 1;
		if (!request->reading) {
			request->generation = (generations[block] & 0xffffff) + 1;
			if (request->generation > 0xfffffe)
				request->generation = 1;
			stamp(request);
		}
	}
	request->started_ns = now_ns();
	submit(request);
}

static void completed(struct iscsi_context *context, int status, void *data, void *private_data)
{
	struct request *request = private_data;
	struct session *session = request->session;
	struct scsi_task *task = data;
	(void)context;
	session->inflight--;
	if (status != SCSI_STATUS_GOOD && patient && request->retries < MOST_RETRIES &&
	    worth_another_try(status, task)) {
		if (task)
			scsi_free_scsi_task(task);
		request->retries++;
		retries++;
		submit(request);
		return;
	}
	if (verify)
		busy[request->block] = 0;
	all_done++;
	if (status != SCSI_STATUS_GOOD) {
		if (errors++ < 3)
			fprintf(stderr, "command failed: status %d %s\n", status, iscsi_get_error(session->context));
	} else {
		if (verify && request->reading)
			check(request);
		else if (verify)
			generations[request->block] = request->generation;
		if (measuring) {
			uint64_t tenths = (now_ns() - request->started_ns) / 100;
			if (latency_count < MOST_LATENCIES)
				latencies[latency_count++] = tenths > UINT32_MAX ? UINT32_MAX : tenths;
			measured++;
			measured_reads += request->reading;
			session->completed++;
		}
	}
	if (task)
		scsi_free_scsi_task(task);
	if (!stopping && errors < 100 && all_done < most_commands)
		issue(session, request);
}

static void submit(struct request *request)
{
	struct session *session = request->session;
	uint64_t lba = request->block * bytes / block_length;
	struct scsi_task *task;
	request->iov.iov_base = request->buffer;
	request->iov.iov_len = bytes;
	if (request->reading)
		task = iscsi_read10_iov_task(session->context, session->lun, lba, bytes, block_length, 0, 0, 0, 0, 0,
					     completed, request, &request->iov, 1);
	else
		task = iscsi_write10_iov_task(session->context, session->lun, lba, NULL, bytes, block_length, 0, 0, 0, 0,
					      0, completed, request, &request->iov, 1);
	if (!task) {
		fprintf(stderr, "cannot submit: %s\n", iscsi_get_error(session->context));
		exit(2);
	}
	session->inflight++;
}

/* -- set-up ------------------------------------------------------------------------------------------------------ */

static void find_capacity(struct session *session)
{
	struct scsi_task *task = iscsi_readcapacity16_sync(session->context, session->lun);
	struct scsi_readcapacity16 *answer;
	if (!task || task->status || !(answer = scsi_datain_unmarshall(task))) {
		fprintf(stderr, "READ CAPACITY(16) failed\n");
		exit(2);
	}
	block_length = answer->block_length;
	capacity = (answer->returned_lba + 1) * block_length;
	scsi_free_scsi_task(task);
	if (capacity > (1ull << 31) * block_length)
		capacity = (1ull << 31) * block_length;
	blocks = capacity / bytes;
	if (verify) {
		generations = calloc(blocks, sizeof *generations);
		busy = calloc(blocks, 1);
	}
}

static void log_in(struct session *session, int number, const char *text)
{
	char name[80];
	struct iscsi_url *url;
	snprintf(name, sizeof name, "iqn.2026-11.example.load:s%d-%d", (int)getpid(), number);
	session->context = iscsi_create_context(name);
	if (!(url = iscsi_parse_full_url(session->context, text))) {
		fprintf(stderr, "url: %s\n", iscsi_get_error(session->context));
		exit(2);
	}
	iscsi_set_targetname(session->context, url->target);
	iscsi_set_session_type(session->context, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(session->context,
				header_digest ? ISCSI_HEADER_DIGEST_CRC32C : ISCSI_HEADER_DIGEST_NONE);
	iscsi_set_noautoreconnect(session->context, !patient);
	session->lun = url->lun;
	if (url->user[0])
		iscsi_set_initiator_username_pwd(session->context, url->user, url->passwd);
	if (iscsi_full_connect_sync(session->context, url->portal, url->lun)) {
		fprintf(stderr, "connect: %s\n", iscsi_get_error(session->context));
		exit(2);
	}
	iscsi_destroy_url(url);
	if (!block_length)
		find_capacity(session);
	session->requests = calloc(depth, sizeof *session->requests);
	session->next = blocks * number / sessions;
	for (int i = 0; i < depth; i++) {
		session->requests[i].session = session;
		if (posix_memalign((void **)&session->requests[i].buffer, 4096, bytes))
			exit(2);
		memset(session->requests[i].buffer, 0xa5, bytes);
	}
}

static void take_options(int count, char **words)
{
	int option;
	while ((option = getopt(count, words, "s:q:b:m:p:t:w:n:D:P:S:VR")) != -1)
		switch (option) {
		case 's': sessions = atoi(optarg); break;
		case 'q': depth = atoi(optarg); break;
		case 'b': bytes = strtoul(optarg, NULL, 0); break;
		case 'm': reads_percent = *optarg == 'r' ? 100 : *optarg == 'w' ? 0 : atoi(optarg); break;
		case 'p': randomly = *optarg == 'r'; break;
		case 't': seconds = atof(optarg); break;
		case 'w': warm_up = atof(optarg); break;
		case 'n': most_commands = strtoull(optarg, NULL, 0); break;
		case 'D': header_digest = *optarg == 'h'; break;
		case 'P': target_pid = atoi(optarg); break;
		case 'S': seed = strtoull(optarg, NULL, 0) * 2654435761u + 88172645463325252ull; break;
		case 'V': verify = 1; break;
		case 'R': patient = 1; break;
		default: exit(2);
		}
	if (optind + 1 != count || sessions < 1 || depth < 1 || bytes < 512 || bytes % 512) {
		fprintf(stderr, "iscsiload [OPTIONS] URL; the options are at the top of iscsiload.c\n");
		exit(2);
	}
}

/* -- figures ----------------------------------------------------------------------------------------------------- */

static double cpu_of(int pid)
{
	char path[64], text[1024], *end;
	unsigned long user = 0, kernel = 0;
	FILE *file;
	size_t length;
	if (!pid)
		return 0;
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	if (!(file = fopen(path, "r")))
		return 0;
	length = fread(text, 1, sizeof text - 1, file);
	fclose(file);
	text[length] = 0;
	if (!(end = strrchr(text, ')')))
		return 0;
	sscanf(end + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel);
	return (double)(user + kernel) / sysconf(_SC_CLK_TCK);
}

static double own_cpu(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static int order(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
	return a < b ? -1 : a > b;
}

static double latency_us(double part)
{
	size_t at = latency_count * part;
	return latency_count ? latencies[at < latency_count ? at : latency_count - 1] / 10.0 : 0;
}

static void print(const struct session *all, double elapsed, double own, double target)
{
	uint64_t least = UINT64_MAX, most = 0;
	for (int i = 0; i < sessions; i++) {
		least = all[i].completed < least ? all[i].completed : least;
		most = all[i].completed > most ? all[i].completed : most;
	}
	qsort(latencies, latency_count, sizeof *latencies, order);
	printf("{\"iops\": %.0f, \"mbps\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, "
	       "\"initiator_cpu\": %.1f, \"target_cpu\": %.1f, \"errors\": %llu, \"wrong\": %llu, \"retries\": %llu, "
	       "\"commands\": %llu, \"least_session\": %llu, \"most_session\": %llu, \"mean_session\": %.1f}\n",
	       measured / elapsed, measured * (double)bytes / elapsed / 1e6, latency_us(0.5), latency_us(0.99),
	       latency_us(1), own / elapsed * 100, target / elapsed * 100, (unsigned long long)errors,
	       (unsigned long long)wrong, (unsigned long long)retries, (unsigned long long)all_done,
	       (unsigned long long)least, (unsigned long long)most, (double)measured / sessions);
}

/* -- the loop ---------------------------------------------------------------------------------------------------- */

static int under_way(const struct session *all)
{
	int left = 0;
	for (int i = 0; i < sessions; i++)
		left += all[i].inflight;
	return left;
}

int main(int count, char **words)
{
	take_options(count, words);
	struct session *all = calloc(sessions, sizeof *all);
	struct pollfd *polled = calloc(sessions, sizeof *polled);
	latencies = malloc(MOST_LATENCIES * sizeof *latencies);
	for (int i = 0; i < sessions; i++)
		log_in(&all[i], i, words[optind]);
	if (blocks < (uint64_t)sessions * depth && verify) {
		fprintf(stderr, "the LUN has fewer blocks than there are commands at a time\n");
		return 2;
	}

	double own_start = 0, target_start = 0, own = 0, target = 0;
	uint64_t start = now_ns() + warm_up * 1e9, end = 0, give_up = 0, stopped = 0;
	for (int i = 0; i < sessions; i++)
		for (int k = 0; k < depth; k++)
			issue(&all[i], &all[i].requests[k]);
	for (;;) {
		uint64_t now = now_ns();
		if (!measuring && !stopping && (now >= start || all_done >= most_commands)) {
			measuring = 1;
			start = now;
			end = now + seconds * 1e9;
			own_start = own_cpu();
			target_start = cpu_of(target_pid);
		}
		if (measuring && (now >= end || all_done >= most_commands || errors >= 100)) {
			measuring = 0;
			stopping = 1;
			stopped = now;
			give_up = now + 30000000000ull;
			own = own_cpu() - own_start;
			target = cpu_of(target_pid) - target_start;
		}
		if (stopping && !under_way(all))
			break;
		if (stopping && now > give_up) {
			fprintf(stderr, "%d commands were never answered\n", under_way(all));
			errors += under_way(all);
			break;
		}
		for (int i = 0; i < sessions; i++) {
			polled[i].fd = iscsi_get_fd(all[i].context);
			polled[i].events = iscsi_which_events(all[i].context);
			polled[i].revents = 0;
		}
		int ready = poll(polled, sessions, 100);
		if (ready < 0 && errno != EINTR) {
			perror("poll");
			return 2;
		}
		for (int i = 0; i < sessions; i++)
			if ((polled[i].revents || (patient && ready == 0)) &&
			    iscsi_service(all[i].context, polled[i].revents) < 0 && !patient) {
				fprintf(stderr, "service: %s\n", iscsi_get_error(all[i].context));
				return 2;
			}
	}
	print(all, (stopped - start + 1) / 1e9, own, target);
	fflush(stdout);
	if (!errors)
		for (int i = 0; i < sessions; i++) {
			iscsi_logout_sync(all[i].context);
			iscsi_destroy_context(all[i].context);
		}
	return errors || wrong ? 1 : 0;
}
