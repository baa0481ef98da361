/* A process forked off one that has a single thread. */
#ifndef PH_CHILD_H
#define PH_CHILD_H
#include <stdint.h>
#include <sys/types.h>

/* fork(2): 0 in the child, which dies with its parent; its pid in the parent; -errno. */
int ph_fork(void);
/* Closes all descriptors from 3 on but one. */
void ph_close_others(int fd);
/* setrlimit(2), both limits. */
int ph_limit_data(uint64_t bytes);
int ph_limit_file_size(uint64_t bytes);
int ph_limit_files(uint64_t count);
int ph_limit_core(void);
/* nice(2). */
void ph_be_nice(int by);
/* Standard output and error go nowhere from now on. */
int ph_silence(void);
/* _exit(2). */
_Noreturn void ph_exit(int status);
#endif
