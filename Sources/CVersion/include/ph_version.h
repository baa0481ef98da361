/* Which commit this was built from. */
#ifndef PH_VERSION_H
#define PH_VERSION_H
/* Empty where the build was not told (PINHOLE_COMMIT in the environment, as `make build` sets it). */
const char *ph_commit(void);
#endif
