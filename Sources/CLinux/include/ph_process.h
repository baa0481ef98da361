/* Starting and awaiting other programs. */
#ifndef PH_PROCESS_H
#define PH_PROCESS_H

/*
 * posix_spawnp: argv ends with NULL; descriptor from[i] becomes to[i] in the child, whatever
 * overlaps; standard input is /dev/null unless mapped. Returns the pid or -errno.
 */
int ph_spawn(const char *const argv[], const int *from, const int *to, int count);
/* waitpid: 1 and *status (exit status, or 128 + signal) if it has ended, 0 if not, -errno. */
int ph_wait(int pid, int block, int *status);
/* pidfd_open(2): readable once the process has ended; -errno. */
int ph_pidfd(int pid);
/* The running program's own path, at most size bytes with the NUL; -errno. */
int ph_self_path(char *path, int size);
#endif
