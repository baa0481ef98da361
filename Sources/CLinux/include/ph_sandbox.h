/* What a process gives up: Landlock (landlock(7)), capabilities, the root directory. */
#ifndef PH_SANDBOX_H
#define PH_SANDBOX_H
#include <stdint.h>

/* Every ph_ function returns a value >= 0, or -errno. */

/* The version of Landlock's ABI; -ENOSYS or -EOPNOTSUPP where there is none. */
int ph_landlock_abi(void);
/* A ruleset that denies all that its three masks name; older kernels need later masks to be 0. */
int ph_landlock_ruleset(uint64_t files, uint64_t network, uint64_t scopes);
/* Permits some accesses beneath a directory opened with O_PATH. */
int ph_landlock_allow_beneath(int ruleset, int directory, uint64_t files);
/* From now on for this thread and those it starts. */
int ph_landlock_restrict(int ruleset);

/* LANDLOCK_ACCESS_FS_* by the ABI that brought them (linux/landlock.h). */
static const uint64_t ph_LANDLOCK_FS_1 = (1ULL << 13) - 1;
static const uint64_t ph_LANDLOCK_FS_2_REFER = 1ULL << 13;
static const uint64_t ph_LANDLOCK_FS_3_TRUNCATE = 1ULL << 14;
static const uint64_t ph_LANDLOCK_FS_5_IOCTL_DEV = 1ULL << 15;
static const uint64_t ph_LANDLOCK_FS_REMOVE_FILE = 1ULL << 5;
static const uint64_t ph_LANDLOCK_FS_WRITE_FILE = 1ULL << 1;
static const uint64_t ph_LANDLOCK_FS_READ_FILE = 1ULL << 2;
static const uint64_t ph_LANDLOCK_FS_READ_DIR = 1ULL << 3;
/* LANDLOCK_ACCESS_NET_BIND_TCP and _CONNECT_TCP. */
static const uint64_t ph_LANDLOCK_NET_4 = 3;
/* LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and _SIGNAL. */
static const uint64_t ph_LANDLOCK_SCOPE_6 = 3;

int ph_set_no_new_privileges(void);
/* 1 if execve(2) can give this process no privileges. */
int ph_has_no_new_privileges(void);
/* Empties every capability set; the bounding set only as far as that is permitted. */
int ph_drop_capabilities(void);
/* Permitted, effective and inheritable capabilities together, as bits; 0 if there are none. */
uint64_t ph_capabilities(void);
/* Makes a directory that has no name and stays empty the root; needs CAP_SYS_CHROOT. */
int ph_enter_empty_root(void);
/* 1 if the kernel has seccomp filters. */
int ph_has_seccomp(void);
/* syscall(2), for calls that glibc has no function for; -1 and errno. */
long ph_raw_call(long number, long a, long b, long c);
#endif
