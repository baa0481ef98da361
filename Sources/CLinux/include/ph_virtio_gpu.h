/* virtio-gpu as the guest's driver sees it, and the ordered accesses of a ring's driver. */
#ifndef PH_VIRTIO_GPU_H
#define PH_VIRTIO_GPU_H
#include <linux/virtio_gpu.h>
#include <stdint.h>

static inline uint16_t ph_driver_load_acquire(const void *address)
{
	return __atomic_load_n((const uint16_t *)address, __ATOMIC_ACQUIRE);
}

static inline void ph_driver_store_release(void *address, uint16_t value)
{
	__atomic_store_n((uint16_t *)address, value, __ATOMIC_RELEASE);
}

/* Orders a store before a later load, as an event index needs it (virtio 1.3, 2.7.13.4.1). */
static inline void ph_driver_full_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}
#endif
