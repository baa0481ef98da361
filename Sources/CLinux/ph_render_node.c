#include "ph_render_node.h"
#include <errno.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* struct drm_prime_handle, struct drm_gem_close, struct drm_version and struct drm_virtgpu_getparam (drm/drm.h, drm/virtgpu_drm.h). */
struct drm_version {
	int major, minor, patch;
	size_t name_length;
	char *name;
	size_t date_length;
	char *date;
	size_t description_length;
	char *description;
};
struct virtgpu_getparam {
	uint64_t param, value;
};
struct drm_prime_handle {
	uint32_t handle, flags;
	int32_t fd;
};
struct drm_gem_close {
	uint32_t handle, pad;
};
#define DRM_IOCTL_GEM_CLOSE _IOW('d', 0x09, struct drm_gem_close)
#define DRM_IOCTL_PRIME_FD_TO_HANDLE _IOWR('d', 0x2e, struct drm_prime_handle)
#define DRM_IOCTL_VERSION _IOWR('d', 0x00, struct drm_version)
#define DRM_IOCTL_VIRTGPU_GETPARAM _IOWR('d', 0x43, struct virtgpu_getparam)
enum { VIRTGPU_PARAM_3D_FEATURES = 1 };

static int ask(int node, unsigned long request, void *argument)
{
	int r;

	do
		r = ioctl(node, request, argument);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

int ph_drm_driver(int node, char *name, size_t size)
{
	struct drm_version version = { .name_length = size - 1, .name = name };

	if (size == 0)
		return -EINVAL;
	for (size_t i = 0; i < size; i++)
		name[i] = 0;
	return ask(node, DRM_IOCTL_VERSION, &version);
}

int ph_virtgpu_has_3d(int node)
{
	int value = 0;
	struct virtgpu_getparam question = {
		.param = VIRTGPU_PARAM_3D_FEATURES,
		.value = (uint64_t)(uintptr_t)&value,
	};
	int r = ask(node, DRM_IOCTL_VIRTGPU_GETPARAM, &question);

	return r < 0 ? r : value != 0;
}

int ph_drm_imports(int node, int dmabuf)
{
	struct drm_prime_handle import = { .fd = dmabuf };
	int r = ask(node, DRM_IOCTL_PRIME_FD_TO_HANDLE, &import);

	if (r == 0) {
		struct drm_gem_close gone = { .handle = import.handle };

		ask(node, DRM_IOCTL_GEM_CLOSE, &gone);
	}
	return r;
}
