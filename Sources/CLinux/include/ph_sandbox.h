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

/* ioctl(2) requests that the daemon makes once it serves. */
extern const uint64_t ph_REQUEST_UDMABUF_CREATE_LIST;
extern const uint64_t ph_REQUEST_UFFDIO_REGISTER, ph_REQUEST_UFFDIO_UNREGISTER;
extern const uint64_t ph_REQUEST_UFFDIO_CONTINUE, ph_REQUEST_UFFDIO_ZEROPAGE;
extern const uint64_t ph_REQUEST_UFFDIO_COPY, ph_REQUEST_UFFDIO_WAKE;
extern const uint64_t ph_REQUEST_PAGEMAP_SCAN;
extern const uint64_t ph_REQUEST_DMA_BUF_SYNC;
extern const uint64_t ph_REQUEST_DMA_BUF_EXPORT_SYNC_FILE, ph_REQUEST_DMA_BUF_IMPORT_SYNC_FILE;
extern const uint64_t ph_REQUEST_SYNC_FILE_INFO, ph_REQUEST_SYNC_MERGE;
extern const uint64_t ph_REQUEST_SYNCOBJ_DESTROY, ph_REQUEST_SYNCOBJ_FD_TO_HANDLE;
extern const uint64_t ph_REQUEST_SYNCOBJ_EVENTFD;
#endif
