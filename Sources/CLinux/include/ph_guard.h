/*
 * Mappings of files that somebody else may truncate. A SIGBUS in one of them replaces the whole
 * mapping by zeros of our own, so that whoever touched it goes on, and marks it as lost.
 */
#ifndef PH_GUARD_H
#define PH_GUARD_H
#include <stddef.h>
#include <stdint.h>

/* Installs the SIGBUS handler and opens what it needs, so that both are there from the start. */
int ph_guard_prepare(void);
/* Installs the SIGBUS handler at first use. Returns a slot, or -errno (ENOSPC: no slot free). */
int ph_guard_add(void *base, size_t length);
/* To be called before the mapping is unmapped, while no thread touches it. */
void ph_guard_remove(int slot);
int ph_guard_is_lost(int slot);
/* How many mappings were lost so far. */
uint64_t ph_guard_losses(void);
#endif
