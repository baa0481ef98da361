/*
 * drm_syncobj timelines (drm/drm.h, which comes with libdrm and not with the kernel's headers)
 * on a DRM node that somebody else opened. No call here waits.
 */
#ifndef PH_SYNCOBJ_H
#define PH_SYNCOBJ_H
#include <stdint.h>

extern const uint64_t ph_REQUEST_SYNCOBJ_DESTROY, ph_REQUEST_SYNCOBJ_FD_TO_HANDLE;
extern const uint64_t ph_REQUEST_SYNCOBJ_EVENTFD;

/* 1 if it is a DRM device, 0 if not: nothing else is to be asked with these requests. */
int ph_drm_is_node(int fd);
/*
 * 0 if the node's driver has timelines and the kernel has DRM_IOCTL_SYNCOBJ_EVENTFD (Linux 6.6);
 * -EOPNOTSUPP without the former, -EINVAL without the latter.
 */
int ph_syncobj_has_eventfd(int node);
/* DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE; -EINVAL if it is no drm_syncobj. */
int ph_syncobj_import(int node, int fd, uint32_t *handle);
/* DRM_IOCTL_SYNCOBJ_DESTROY: the handle only. */
int ph_syncobj_destroy(int node, uint32_t handle);
/*
 * DRM_IOCTL_SYNCOBJ_EVENTFD: signals the eventfd once the point has signalled, also one that has
 * no fence yet. It cannot be taken back, but nobody needs to keep the eventfd for it.
 */
int ph_syncobj_eventfd(int node, uint32_t handle, uint64_t point, int eventfd);
#endif
