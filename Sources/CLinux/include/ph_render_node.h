/* DRM devices by the names of their drivers (drm/drm.h). */
#ifndef PH_RENDER_NODE_H
#define PH_RENDER_NODE_H
#include <stddef.h>

/* The driver's name, ended by 0 and cut to fit; 0, or -errno. */
int ph_drm_driver(int node, char *name, size_t size);
/* Whether a virtio-gpu draws 3D: 1, or 0 for 2D alone; -errno. */
int ph_virtgpu_has_3d(int node);
/* Whether the driver takes a dma-buf (DRM_IOCTL_PRIME_FD_TO_HANDLE), which it lets go of: 0, or -errno. */
int ph_drm_imports(int node, int dmabuf);
#endif
