/* Requests of linux/dma-buf.h on a dma-buf's descriptor. */
#ifndef PH_DMABUF_H
#define PH_DMABUF_H
#include <stdint.h>

extern const uint64_t ph_REQUEST_DMA_BUF_SYNC;
extern const uint64_t ph_REQUEST_DMA_BUF_EXPORT_SYNC_FILE, ph_REQUEST_DMA_BUF_IMPORT_SYNC_FILE;

/* DMA_BUF_IOCTL_SYNC: brackets reads by the CPU. Not from several threads on one descriptor. */
int ph_dmabuf_begin_read(int fd);
int ph_dmabuf_end_read(int fd);
/* Length in bytes, or -errno. */
int64_t ph_dmabuf_size(int fd);
/*
 * DMA_BUF_IOCTL_EXPORT_SYNC_FILE (Linux 6.0): a sync_file that signals when the buffer's present
 * writers (write 0: what a reader waits for) or all its users (write 1) are done.
 */
int ph_dmabuf_export_sync_file(int fd, int write);
/* DMA_BUF_IOCTL_IMPORT_SYNC_FILE: adds a sync_file to the buffer's readers or writers. */
int ph_dmabuf_import_sync_file(int fd, int sync_file, int write);
/* 1 for a dma-buf (fstatfs(2), DMA_BUF_MAGIC of linux/magic.h), else 0. Never waits. */
int ph_is_dmabuf(int fd);

#endif
