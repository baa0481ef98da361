#include "ph_process.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MAX_MAP = 16 };

int ph_spawn(const char *const argv[], const int *from, const int *to, int count)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, ignored;
	int high[MAX_MAP], made = 0, r = 0, has_stdin = 0;
	pid_t pid = 0;

	if (count < 0 || count > MAX_MAP)
		return -EINVAL;
	r = posix_spawn_file_actions_init(&actions);
	if (r)
		return -r;
	r = posix_spawnattr_init(&attributes);
	if (r) {
		posix_spawn_file_actions_destroy(&actions);
		return -r;
	}
	/* What this thread reads from a signalfd, and SIGPIPE, is this process's own affair. */
	sigemptyset(&none);
	sigemptyset(&ignored);
	sigaddset(&ignored, SIGPIPE);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &ignored);
	r = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	/* Out of the way first, so that no target number is a source that is still needed. */
	for (; made < count && !r; made++) {
		high[made] = fcntl(from[made], F_DUPFD_CLOEXEC, 64);
		if (high[made] < 0) {
			r = errno;
			break;
		}
		has_stdin |= to[made] == 0;
		r = posix_spawn_file_actions_adddup2(&actions, high[made], to[made]);
	}
	if (!r && !has_stdin)
		r = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	if (!r)
		r = posix_spawnp(&pid, argv[0], &actions, &attributes, (char *const *)argv, environ);
	for (int i = 0; i < made; i++)
		close(high[i]);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return r ? -r : pid;
}

int ph_wait(int pid, int block, int *status)
{
	int raw;
	pid_t r;
	do
		r = waitpid(pid, &raw, block ? 0 : WNOHANG);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	if (r == 0)
		return 0;
	*status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
	return 1;
}

int ph_pidfd(int pid)
{
	long fd = syscall(SYS_pidfd_open, pid, 0);
	return fd < 0 ? -errno : (int)fd;
}

int ph_self_path(char *path, int size)
{
	ssize_t n = readlink("/proc/self/exe", path, (size_t)size - 1);
	if (n < 0)
		return -errno;
	path[n] = 0;
	return 0;
}
