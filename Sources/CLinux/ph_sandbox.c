#ifndef _GNU_SOURCE
#error "build with -D_GNU_SOURCE"
#endif
#include "ph_sandbox.h"
#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/landlock.h of Linux 6.12; headers of 6.1 lack the later members. */
struct ruleset_attr {
	uint64_t handled_access_fs, handled_access_net, scoped;
};
struct path_beneath_attr {
	uint64_t allowed_access;
	int32_t parent_fd;
} __attribute__((packed));

enum {
	CREATE_RULESET = 444, /* the same on every architecture */
	ADD_RULE = 445,
	RESTRICT_SELF = 446,
	CREATE_RULESET_VERSION = 1,
	RULE_PATH_BENEATH = 1,
};

static int result(long r) { return r < 0 ? -errno : (int)r; }

int ph_landlock_abi(void)
{
	return result(syscall(CREATE_RULESET, NULL, 0, CREATE_RULESET_VERSION));
}

int ph_landlock_ruleset(uint64_t files, uint64_t network, uint64_t scopes)
{
	struct ruleset_attr attr = { files, network, scopes };
	/* Kernels that know fewer members accept the others as long as they are 0. */
	return result(syscall(CREATE_RULESET, &attr, sizeof attr, 0));
}

int ph_landlock_allow_beneath(int ruleset, int directory, uint64_t files)
{
	struct path_beneath_attr attr = { files, directory };
	return result(syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, &attr, 0));
}

int ph_landlock_restrict(int ruleset) { return result(syscall(RESTRICT_SELF, ruleset, 0)); }

int ph_set_no_new_privileges(void) { return result(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }

int ph_has_no_new_privileges(void) { return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1; }

static struct __user_cap_header_struct this_thread(void)
{
	return (struct __user_cap_header_struct){ .version = _LINUX_CAPABILITY_VERSION_3 };
}

int ph_drop_capabilities(void)
{
	struct __user_cap_header_struct header = this_thread();
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { { 0 } };

	/* Without CAP_SETPCAP this is EPERM; no_new_privs makes the bounding set harmless. */
	for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
		prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return result(syscall(SYS_capset, &header, none));
}

uint64_t ph_capabilities(void)
{
	struct __user_cap_header_struct header = this_thread();
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { { 0 } };
	uint64_t bits = 0;

	if (syscall(SYS_capget, &header, data) < 0)
		return UINT64_MAX;
	for (int half = 0; half < _LINUX_CAPABILITY_U32S_3; half++)
		bits |= (uint64_t)(data[half].effective | data[half].permitted |
				   data[half].inheritable) << (32 * half);
	return bits;
}

int ph_enter_empty_root(void)
{
	char path[] = "/tmp/pinhole-root-XXXXXX";
	int error = 0;

	if (!mkdtemp(path))
		return -errno;
	if (chdir(path) < 0)
		error = errno;
	/* Nothing can be made in a directory that has been removed. */
	if (rmdir(path) < 0 && !error)
		error = errno;
	if (!error && chroot(".") < 0)
		error = errno;
	if (chdir("/") < 0 && !error)
		error = errno;
	return -error;
}

int ph_has_seccomp(void) { return prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0; }

long ph_raw_call(long number, long a, long b, long c) { return syscall(number, a, b, c, 0, 0); }
