#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_child.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

int ph_fork(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid < 0)
		return -errno;
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	/* It may have died before. */
	if (getppid() != parent)
		_exit(1);
	return 0;
}

void ph_close_others(int fd)
{
	if (fd > 3)
		close_range(3, (unsigned)fd - 1, 0);
	close_range((unsigned)fd + 1, ~0U, 0);
}

static int limit(__rlimit_resource_t what, uint64_t value)
{
	struct rlimit both = { value, value };
	return setrlimit(what, &both) < 0 ? -errno : 0;
}

int ph_limit_data(uint64_t bytes) { return limit(RLIMIT_DATA, bytes); }
int ph_limit_file_size(uint64_t bytes) { return limit(RLIMIT_FSIZE, bytes); }
int ph_limit_files(uint64_t count) { return limit(RLIMIT_NOFILE, count); }
int ph_limit_core(void) { return limit(RLIMIT_CORE, 0); }

void ph_be_nice(int by)
{
	if (nice(by) == -1)
		return;
}

int ph_silence(void)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (null < 0)
		return -errno;
	if (dup2(null, 1) < 0 || dup2(null, 2) < 0) {
		int error = errno;
		close(null);
		return -error;
	}
	close(null);
	return 0;
}

void ph_exit(int status) { _exit(status); }
