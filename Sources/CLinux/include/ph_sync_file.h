/* sync_file (linux/sync_file.h): fences of the kernel's graphics drivers as descriptors. */
#ifndef PH_SYNC_FILE_H
#define PH_SYNC_FILE_H
#include <stdint.h>

extern const uint64_t ph_REQUEST_SYNC_FILE_INFO, ph_REQUEST_SYNC_MERGE;

/* 1 signalled, 0 active, below 0 the fence's error; -ENOTTY and others if it is no sync_file. */
int ph_sync_file_status(int fd, int *status);
/* SYNC_IOC_MERGE: a sync_file that signals after both; a descriptor, or -errno. */
int ph_sync_file_merge(int a, int b);
/* poll(2) without waiting: 1 if any of the events is there, 0 if not, or -errno. */
int ph_poll_now(int fd, short events);
#endif
