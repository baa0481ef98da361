// A guest program that owns the screen and redraws it on command, in the same
// buffers for as long as it runs: what modetest, which makes new buffers for
// every picture, cannot do.
//
// It reads one command per line on standard input and answers each with one
// line, "ok …" or "error …", on standard output:
//   draw PICTURE          into the buffer on screen, then DIRTYFB
//   rect X Y W H PICTURE  the same, for this rectangle only
//   flip PICTURE          into the other buffer, then a page flip; waits for its event
//   flips COUNT           so many flips one after the other, each of a colour of its own, in every
//                         16th row alone: soon drawn, also where the guest is emulated
//   info                  width, height, stride in bytes, and which buffer is on screen
// PICTURE: plain:RRGGBB | checker:RRGGBB:RRGGBB (16-pixel squares, the first at 0,0)
//   | gradient (red = x*255/(w-1), green = y*255/(h-1), blue 80)
//   | noise:SEED (pixel = low 24 bits of h, where
//     h = (x + y*65536) ^ seed*2654435769; h ^= h>>16; h *= 2246822519;
//     h ^= h>>13; h *= 3266489917; h ^= h>>16, all 32-bit)
//   | letter:C:RRGGBB (a white A or B, 8x8 squares of height/10 in the middle, on this colour)
// Usage: paint [WIDTHxHEIGHT]

#include <drm.h>
#include <drm_mode.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { buffer_count = 2, max_ids = 16, max_modes = 128 };

struct buffer {
  uint32_t handle, framebuffer, stride;
  uint64_t size;
  uint8_t *map;
};

static int card;
static uint32_t crtc, connector;
static struct drm_mode_modeinfo mode;
static struct buffer buffers[buffer_count];
static int shown;

static int control(unsigned long request, void *argument) {
  int result;
  do result = ioctl(card, request, argument);
  while (result < 0 && (errno == EINTR || errno == EAGAIN));
  return result;
}

static void need(int result, const char *what) {
  if (result >= 0) return;
  printf("error %s: %s\n", what, strerror(errno));
  exit(1);
}

// The first connected output, its preferred mode or the one of the wanted size.
static void choose_output(const char *wanted) {
  uint32_t crtcs[max_ids], connectors[max_ids], encoders[max_ids], framebuffers[max_ids];
  struct drm_mode_card_res res = {
      .crtc_id_ptr = (uintptr_t)crtcs, .count_crtcs = max_ids,
      .connector_id_ptr = (uintptr_t)connectors, .count_connectors = max_ids,
      .encoder_id_ptr = (uintptr_t)encoders, .count_encoders = max_ids,
      .fb_id_ptr = (uintptr_t)framebuffers, .count_fbs = max_ids};
  need(control(DRM_IOCTL_MODE_GETRESOURCES, &res), "GETRESOURCES");
  for (uint32_t i = 0; i < res.count_connectors && i < max_ids; i++) {
    static struct drm_mode_modeinfo modes[max_modes];
    struct drm_mode_get_connector c = {.connector_id = connectors[i]};
    if (control(DRM_IOCTL_MODE_GETCONNECTOR, &c) < 0 || c.connection != 1) continue;
    c.count_props = c.count_encoders = 0;
    if (c.count_modes > max_modes) c.count_modes = max_modes;
    c.modes_ptr = (uintptr_t)modes;
    need(control(DRM_IOCTL_MODE_GETCONNECTOR, &c), "GETCONNECTOR");
    for (uint32_t m = 0; m < c.count_modes && m < max_modes; m++) {
      if (m > 0 && !(wanted && !strcmp(wanted, modes[m].name))) continue;
      mode = modes[m];
      connector = c.connector_id;
      crtc = crtcs[i < res.count_crtcs ? i : 0];
      if (!wanted || !strcmp(wanted, mode.name)) return;
    }
  }
  if (connector == 0 || wanted) {
    printf("error no connected output%s%s\n", wanted ? " with mode " : "", wanted ? wanted : "");
    exit(1);
  }
}

static void make_buffer(struct buffer *b) {
  struct drm_mode_create_dumb create = {
      .width = mode.hdisplay, .height = mode.vdisplay, .bpp = 32};
  need(control(DRM_IOCTL_MODE_CREATE_DUMB, &create), "CREATE_DUMB");
  struct drm_mode_fb_cmd fb = {.width = mode.hdisplay, .height = mode.vdisplay,
                               .pitch = create.pitch, .bpp = 32, .depth = 24,
                               .handle = create.handle};
  need(control(DRM_IOCTL_MODE_ADDFB, &fb), "ADDFB");
  struct drm_mode_map_dumb map = {.handle = create.handle};
  need(control(DRM_IOCTL_MODE_MAP_DUMB, &map), "MAP_DUMB");
  b->handle = create.handle;
  b->framebuffer = fb.fb_id;
  b->stride = create.pitch;
  b->size = create.size;
  b->map = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_SHARED, card, (off_t)map.offset);
  need(b->map == MAP_FAILED ? -1 : 0, "mmap");
}

static uint32_t noise(uint32_t seed, uint32_t x, uint32_t y) {
  uint32_t h = (x + y * 65536u) ^ seed * 2654435769u;
  h = (h ^ h >> 16) * 2246822519u;
  h = (h ^ h >> 13) * 3266489917u;
  return (h ^ h >> 16) & 0xffffff;
}

struct picture { enum { plain, checker, gradient, noisy, letter } kind; uint32_t a, b; };

static int parse(const char *text, struct picture *p) {
  p->a = p->b = 0;
  if (sscanf(text, "plain:%x", &p->a) == 1) p->kind = plain;
  else if (sscanf(text, "checker:%x:%x", &p->a, &p->b) == 2) p->kind = checker;
  else if (sscanf(text, "noise:%u", &p->a) == 1) p->kind = noisy;
  else if (!strncmp(text, "letter:", 7) && (text[7] == 'A' || text[7] == 'B') &&
           sscanf(text + 8, ":%x", &p->a) == 1) p->kind = letter, p->b = (uint32_t)text[7];
  else if (!strncmp(text, "gradient", 8)) p->kind = gradient;
  else return -1;
  return 0;
}

static int in_letter(uint32_t which, uint32_t x, uint32_t y) {
  static const uint8_t letters[2][8] = {{0x18, 0x3c, 0x66, 0x66, 0x7e, 0x66, 0x66, 0x66},
                                        {0x7c, 0x66, 0x66, 0x7c, 0x66, 0x66, 0x66, 0x7c}};
  uint32_t square = mode.vdisplay / 10u;
  uint32_t left = (mode.hdisplay - 8 * square) / 2, top = (mode.vdisplay - 8 * square) / 2;
  if (x < left || y < top || x >= left + 8 * square || y >= top + 8 * square) return 0;
  return letters[which == 'B'][(y - top) / square] >> (7 - (x - left) / square) & 1;
}

static uint32_t pixel(const struct picture *p, uint32_t x, uint32_t y) {
  switch (p->kind) {
    case plain: return p->a;
    case checker: return ((x / 16 + y / 16) & 1) ? p->b : p->a;
    case noisy: return noise(p->a, x, y);
    case letter: return in_letter(p->b, x, y) ? 0xffffff : p->a;
    default: return x * 255u / (mode.hdisplay - 1u) << 16 | y * 255u / (mode.vdisplay - 1u) << 8 | 80;
  }
}

static void fill(struct buffer *b, const struct picture *p, const uint32_t r[4]) {
  for (uint32_t y = r[1]; y < r[1] + r[3]; y++) {
    volatile uint32_t *row = (volatile uint32_t *)(void *)(b->map + (size_t)y * b->stride);
    for (uint32_t x = r[0]; x < r[0] + r[2]; x++) row[x] = pixel(p, x, y);
  }
}

static const char *draw(const struct picture *p, const uint32_t r[4]) {
  if (r[0] + r[2] > mode.hdisplay || r[1] + r[3] > mode.vdisplay) return "error outside";
  fill(&buffers[shown], p, r);
  struct drm_clip_rect clip = {(uint16_t)r[0], (uint16_t)r[1], (uint16_t)(r[0] + r[2]),
                               (uint16_t)(r[1] + r[3])};
  struct drm_mode_fb_dirty_cmd dirty = {.fb_id = buffers[shown].framebuffer,
                                        .num_clips = 1, .clips_ptr = (uintptr_t)&clip};
  return control(DRM_IOCTL_MODE_DIRTYFB, &dirty) < 0 ? "error DIRTYFB" : "ok";
}

static int hidden(void) { return (shown + 1) % buffer_count; }

// The buffer that is not on screen comes there.
static const char *turn(void) {
  char events[256];
  int next = hidden();
  struct drm_mode_crtc_page_flip request = {.crtc_id = crtc, .flags = DRM_MODE_PAGE_FLIP_EVENT,
                                            .fb_id = buffers[next].framebuffer};
  if (control(DRM_IOCTL_MODE_PAGE_FLIP, &request) < 0) return "error PAGE_FLIP";
  shown = next;
  return read(card, events, sizeof events) > 0 ? "ok" : "error no flip event";
}

static const char *flip(const struct picture *p, const uint32_t whole[4]) {
  fill(&buffers[hidden()], p, whole);
  return turn();
}

static const char *flips(unsigned count) {
  static uint32_t number;
  const char *result = "ok";
  while (count-- > 0 && !strcmp(result, "ok")) {
    const struct picture p = {.kind = plain, .a = ++number * 0x3779b1u & 0xffffffu};
    for (uint32_t y = 0; y < mode.vdisplay; y += 16) {
      const uint32_t row[4] = {0, y, mode.hdisplay, 1};
      fill(&buffers[hidden()], &p, row);
    }
    result = turn();
  }
  return result;
}

static void answer(char *line) {
  struct picture p;
  unsigned count;
  const uint32_t whole[4] = {0, 0, mode.hdisplay, mode.vdisplay};
  uint32_t r[4];
  char text[64];
  if (sscanf(line, "draw %63s", text) == 1 && !parse(text, &p)) puts(draw(&p, whole));
  else if (sscanf(line, "flip %63s", text) == 1 && !parse(text, &p)) puts(flip(&p, whole));
  else if (sscanf(line, "flips %u", &count) == 1) puts(flips(count));
  else if (sscanf(line, "rect %u %u %u %u %63s", r, r + 1, r + 2, r + 3, text) == 5 &&
           !parse(text, &p)) puts(draw(&p, r));
  else if (!strncmp(line, "info", 4))
    printf("ok %u %u %u %d\n", mode.hdisplay, mode.vdisplay, buffers[shown].stride, shown);
  else puts("error unknown command or picture");
}

int main(int argc, char **argv) {
  char line[256];
  const struct picture black = {.kind = plain};
  setvbuf(stdout, NULL, _IOLBF, 0);
  card = open("/dev/dri/card0", O_RDWR | O_CLOEXEC);
  need(card, "/dev/dri/card0");
  choose_output(argc > 1 ? argv[1] : NULL);
  const uint32_t whole[4] = {0, 0, mode.hdisplay, mode.vdisplay};
  for (int i = 0; i < buffer_count; i++) {
    make_buffer(&buffers[i]);
    fill(&buffers[i], &black, whole);
  }
  struct drm_mode_crtc set = {.crtc_id = crtc, .fb_id = buffers[0].framebuffer,
                              .set_connectors_ptr = (uintptr_t)&connector,
                              .count_connectors = 1, .mode = mode, .mode_valid = 1};
  need(control(DRM_IOCTL_MODE_SETCRTC, &set), "SETCRTC");
  printf("ok %s\n", mode.name);
  while (fgets(line, sizeof line, stdin)) answer(line);
  return 0;
}
