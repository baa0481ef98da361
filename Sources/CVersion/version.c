#include "ph_version.h"

#ifndef PINHOLE_COMMIT
#define PINHOLE_COMMIT ""
#endif

const char *ph_commit(void) { return PINHOLE_COMMIT; }
