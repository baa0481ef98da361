/*
 * Pinhole's frame protocol, version 1: the wire contract.
 *
 * One producer shows the pictures of a virtual machine to any number of consumers. Pixels are
 * not sent: a consumer gets a descriptor of the memory they lie in (a dma-buf over the guest's
 * own pages, or a sealed memfd with a copy), and one small message for each frame.
 *
 * This header is plain C11, and C++11 can include it too. README.md beside it says the same at
 * length, with the order of messages and what a consumer must do.
 *
 * Transport
 *   AF_UNIX, SOCK_SEQPACKET: one message is one packet, never empty. The consumer connects and
 *   speaks first. All numbers are little endian; every struct below is laid out without hidden
 *   padding and is sent whole: header.size equals both sizeof(struct) and the packet's length.
 *   `reserved` fields are sent as zero. Descriptors travel (SCM_RIGHTS) only with the message
 *   that is said to carry them, and then in exactly the number said.
 *
 * A connection
 *   consumer                                   producer
 *   CONSUMER_HELLO                      ->
 *                                       <-     PRODUCER_HELLO, or ERROR and the end
 *                                       <-     OUTPUT, BUFFER_ADD + fd, FRAME, CURSOR: what is
 *                                              on screen now, then whatever changes
 *   TIMELINE_ADD + 2 fds (if agreed on) ->
 *   FRAME_DONE (one for each FRAME)     ->
 *                                       <-     BUFFER_REMOVE
 *   BUFFER_CLOSED                       ->
 *   Either side ends it by closing the socket; that releases everything.
 *
 * Unknown messages
 *   A type with PINHOLE_OPTIONAL set that the receiver does not know is ignored, and its
 *   descriptors are closed. Any other unknown type is an error: neither side sends a message of
 *   a feature that was not agreed on.
 *
 * Keys and pointers go another way: pinhole_input.h.
 */
#ifndef PINHOLE_FRAMES_H
#define PINHOLE_FRAMES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define PINHOLE_ASSERT(condition) static_assert(condition, #condition)
#else
#define PINHOLE_ASSERT(condition) _Static_assert(condition, #condition)
#endif

#define PINHOLE_MAGIC 0x52464850u /* "PHFR" in memory */
#define PINHOLE_VERSION 1u
#define PINHOLE_OPTIONAL 0x80000000u
#define PINHOLE_MAX_MESSAGE 1024u /* no packet of any version is longer */
#define PINHOLE_MAX_PLANES 4
#define PINHOLE_MAX_DAMAGE 16
#define PINHOLE_MAX_OUTPUTS 16u
#define PINHOLE_MAX_FDS 4 /* with one message */
#define PINHOLE_NAME_SIZE 32
#define PINHOLE_TEXT_SIZE 104
#define PINHOLE_MAX_SIZE 16384u /* pixels across and down of a buffer or an output */
#define PINHOLE_MAX_STRIDE (1u << 18) /* bytes from row to row of a buffer */
#define PINHOLE_MAX_BYTES (1ull << 33) /* of a buffer's memory */
#define PINHOLE_MAX_CURSOR 512u /* pixels across and down */
#define PINHOLE_MAX_CURSOR_BYTES (1u << 22) /* of a cursor's memfd */
#define PINHOLE_NO_FIELD 0xffffffffu

enum pinhole_message {
	/* consumer to producer */
	PINHOLE_CONSUMER_HELLO = 0x01,
	PINHOLE_FRAME_DONE = 0x02,
	PINHOLE_BUFFER_CLOSED = 0x03,
	PINHOLE_TIMELINE_ADD = 0x04, /* of PINHOLE_FEATURE_TIMELINE */
	PINHOLE_TIMELINE_REMOVE = 0x05, /* of PINHOLE_FEATURE_TIMELINE */
	/* producer to consumer */
	PINHOLE_PRODUCER_HELLO = 0x101,
	PINHOLE_OUTPUT = 0x102,
	PINHOLE_BUFFER_ADD = 0x103,
	PINHOLE_FRAME = 0x104,
	PINHOLE_BUFFER_REMOVE = 0x105,
	PINHOLE_CURSOR = 0x106,
	PINHOLE_ERROR = 0x107,
};

/* At the start of every message. */
struct pinhole_header {
	uint32_t type; /* enum pinhole_message */
	uint32_t size; /* of the message with this header, in bytes */
};

/*
 * Feature bits. The consumer says which it wants, the producer answers with those of them that
 * hold on this connection. A consumer that asks for none never meets them.
 */
/* FRAME may carry an acquire sync_file, FRAME_DONE a release sync_file. */
#define PINHOLE_FEATURE_SYNC_FILE (1ull << 0)
/* TIMELINE_ADD brings an output a drm_syncobj timeline, FRAME_DONE names release points on it. */
#define PINHOLE_FEATURE_TIMELINE (1ull << 1)
/* Rows and heights are padded to stride_align and height_align of CONSUMER_HELLO. */
#define PINHOLE_FEATURE_ALIGNMENT (1ull << 2)
/* The consumer can be given nothing but read-only copies. */
#define PINHOLE_FEATURE_COPY_ONLY (1ull << 3)
/* A DMABUF may be a GPU's image: any format and modifier, several planes and descriptors. */
#define PINHOLE_FEATURE_MODIFIERS (1ull << 4)
/* All copies that a picture's frames may be in are told before the first frame; needs COPY_ONLY. */
#define PINHOLE_FEATURE_POOL (1ull << 5)

/* Flags of CONSUMER_HELLO. */
/* Offer no dma-buf; needs PINHOLE_FEATURE_COPY_ONLY, without which the answer is an ERROR. */
#define PINHOLE_CONSUMER_COPY_ONLY (1u << 0)
/* A promise: nothing of its reads a frame after FRAME_DONE, its fence, or BUFFER_CLOSED. */
#define PINHOLE_CONSUMER_EXPLICIT (1u << 1)

/* The first message of all. */
struct pinhole_consumer_hello {
	struct pinhole_header header;
	uint32_t magic; /* PINHOLE_MAGIC */
	uint32_t min_version; /* at least 1 */
	uint32_t max_version; /* at least min_version */
	uint32_t flags; /* PINHOLE_CONSUMER_*; unknown bits are an error */
	uint64_t features; /* wanted; unknown bits are ignored */
	uint32_t stride_align; /* bytes, a power of two up to 4096, or 0 */
	uint32_t height_align; /* rows, a power of two up to 4096, or 0 */
	char name[PINHOLE_NAME_SIZE]; /* for people; UTF-8, ends with a NUL */
};

/* The answer. */
struct pinhole_producer_hello {
	struct pinhole_header header;
	uint32_t magic; /* PINHOLE_MAGIC */
	uint32_t version; /* the one spoken from here on */
	uint64_t features; /* those that hold, a subset of those wanted */
	uint32_t max_in_flight; /* FRAMEs of one output without FRAME_DONE, at least 1 */
	uint32_t hold_deadline_us; /* the guest waits so long for FRAME_DONE */
	uint32_t close_deadline_us; /* the guest waits so long for BUFFER_CLOSED */
	uint32_t max_outputs; /* outputs are numbered below this, at most PINHOLE_MAX_OUTPUTS */
	char name[PINHOLE_NAME_SIZE]; /* for people; UTF-8, ends with a NUL */
};

/* Flags of OUTPUT. */
#define PINHOLE_OUTPUT_ENABLED (1u << 0)

/* An output shows a picture of this size, or nothing. Comes before its first FRAME. */
struct pinhole_output {
	struct pinhole_header header;
	uint32_t output; /* from 0 */
	uint32_t flags; /* PINHOLE_OUTPUT_* */
	uint32_t width; /* pixels; 0 when not enabled */
	uint32_t height; /* pixels; 0 when not enabled */
	uint32_t refresh_mhz; /* thousandths of a hertz, 0 when not known */
	uint32_t reserved;
};

/* Flags of BUFFER_ADD: exactly one of DMABUF and COPY is set. */
#define PINHOLE_BUFFER_DMABUF (1u << 0) /* a dma-buf: the guest's pages, or a GPU's image */
#define PINHOLE_BUFFER_COPY (1u << 1) /* a memfd with F_SEAL_SHRINK; map it PROT_READ */
#define PINHOLE_BUFFER_Y_INVERT (1u << 2) /* the first row in memory is the lowest */

/* Where one plane lies. */
struct pinhole_plane {
	uint32_t fd_index; /* which descriptor of the message, from 0 */
	uint32_t stride; /* bytes from one row to the next */
	uint64_t offset; /* bytes from the start of the descriptor's memory to the first row */
};

/*
 * Memory that FRAMEs will refer to by (buffer, generation). Carries num_fds descriptors.
 *
 * A buffer number stands for one picture of the guest and is not used again for another one.
 * When the pages under the picture change, it gets the next generation: the old one is removed,
 * then the new one is added. Of one buffer at most one generation is not removed.
 */
struct pinhole_buffer_add {
	struct pinhole_header header;
	uint32_t buffer;
	uint32_t generation; /* from 1 */
	uint32_t width; /* pixels, at least 1 */
	uint32_t height; /* pixels, at least 1 */
	uint32_t fourcc; /* DRM_FORMAT_* of drm_fourcc.h */
	uint32_t flags; /* PINHOLE_BUFFER_* */
	uint64_t modifier; /* DRM_FORMAT_MOD_*; 0, linear, for everything the CPU may map */
	uint64_t size; /* bytes of the memory; every descriptor is at least as long */
	uint32_t num_planes; /* 1; with PINHOLE_FEATURE_MODIFIERS up to PINHOLE_MAX_PLANES */
	uint32_t num_fds; /* 1; with PINHOLE_FEATURE_MODIFIERS up to num_planes */
	struct pinhole_plane planes[PINHOLE_MAX_PLANES]; /* zero from num_planes on */
};

struct pinhole_rect {
	uint32_t x;
	uint32_t y;
	uint32_t width;
	uint32_t height;
};

/* Flags of FRAME. */
#define PINHOLE_FRAME_FULL (1u << 0) /* anything may have changed; damage is the whole crop */
#define PINHOLE_FRAME_SKIPPED (1u << 1) /* frames were left out; damage covers theirs */
/* Why the buffer is a copy, enum pinhole_copy_reason; 0 where it is not one. */
#define PINHOLE_FRAME_COPY_SHIFT 8u
#define PINHOLE_FRAME_COPY_MASK (0xffu << 8)

/* For people, to find out how to do without copies. There will be more. */
enum pinhole_copy_reason {
	PINHOLE_COPY_UNSAID = 0,
	PINHOLE_COPY_ASKED = 1, /* the consumer's flag COPY_ONLY */
	PINHOLE_COPY_SOCKET = 2, /* the socket where nothing but copies is shown */
	PINHOLE_COPY_LATE = 3, /* the consumer has frames past their deadline */
	PINHOLE_COPY_ALIGNMENT = 4, /* the guest's rows are not as the consumer wishes */
	PINHOLE_COPY_REDRAWN = 5, /* the guest draws into the picture on screen */
	PINHOLE_COPY_OPERATOR = 6, /* the operator wants copies */
	PINHOLE_COPY_UDMABUF = 7, /* /dev/udmabuf is missing, closed, or refused */
	PINHOLE_COPY_WITNESS = 8, /* discards of guest memory cannot be noticed */
	PINHOLE_COPY_MEMORY = 9, /* the guest's memory is of another kind than needed */
	PINHOLE_COPY_PLACEMENT = 10, /* the picture does not lie in whole pages */
	PINHOLE_COPY_LIMIT = 11, /* more pieces or bytes than udmabuf takes */
	PINHOLE_COPY_BUDGET = 12, /* more pinned memory than the operator allows */
	PINHOLE_COPY_DISCARDS = 13, /* pages go faster than the buffer can be made */
};

/* How acquire_* of FRAME and release_* of FRAME_DONE are meant. */
enum pinhole_fence {
	PINHOLE_FENCE_NONE = 0, /* the pixels are there; or: nothing reads them any more */
	PINHOLE_FENCE_SYNC_FILE = 1, /* one sync_file descriptor comes with the message */
	PINHOLE_FENCE_TIMELINE = 2, /* a point of the output's timeline; FRAME_DONE only */
};

/*
 * There is something new to see. Carries a descriptor if acquire_kind is SYNC_FILE.
 * Each FRAME must be answered with FRAME_DONE, also one that is not looked at.
 */
struct pinhole_frame {
	struct pinhole_header header;
	uint32_t output;
	uint32_t flags; /* PINHOLE_FRAME_* */
	uint64_t serial; /* rises with every FRAME of an output; numbers may be left out */
	uint32_t buffer; /* added and not removed */
	uint32_t generation;
	struct pinhole_rect crop; /* what the output shows, in pixels of the buffer */
	uint32_t acquire_kind; /* enum pinhole_fence */
	uint32_t num_damage; /* 1 to PINHOLE_MAX_DAMAGE */
	uint64_t acquire_point; /* 0 in version 1 */
	uint64_t timestamp_ns; /* CLOCK_MONOTONIC of the guest's flush */
	/* Changed since the previous FRAME of this output, relative to crop; else zero. */
	struct pinhole_rect damage[PINHOLE_MAX_DAMAGE];
};

/* Why a generation is removed. */
enum pinhole_remove_reason {
	PINHOLE_REMOVE_DESTROYED = 1, /* the guest destroyed the picture */
	PINHOLE_REMOVE_DISCARDED = 2, /* its pages were taken away: what is in it is not the guest's */
	PINHOLE_REMOVE_REBACKED = 3, /* the guest gave the picture other pages */
	PINHOLE_REMOVE_RESET = 4, /* the virtual device was reset */
	PINHOLE_REMOVE_MEMORY = 5, /* the guest memory under it was unplugged */
	PINHOLE_REMOVE_UNUSED = 6, /* nothing shows it; it may be added again */
	PINHOLE_REMOVE_SHUTDOWN = 7, /* the producer ends */
	PINHOLE_REMOVE_TIMEOUT = 8, /* this consumer kept a frame of it for too long */
};

/* Let go of the memory: unmap it, drop imports, close descriptors, answer BUFFER_CLOSED. */
struct pinhole_buffer_remove {
	struct pinhole_header header;
	uint32_t buffer;
	uint32_t generation;
	uint32_t reason; /* enum pinhole_remove_reason; treat unknown ones as DESTROYED */
	uint32_t reserved;
};

/* Flags of CURSOR. */
#define PINHOLE_CURSOR_VISIBLE (1u << 0)
#define PINHOLE_CURSOR_IMAGE (1u << 1) /* a new image comes with the message */

/*
 * The cursor of an output. With IMAGE a memfd sealed with F_SEAL_SHRINK holds width by
 * height pixels, alpha premultiplied, to be copied at once: its memory is used again for another
 * image a second later or more. Without IMAGE, width to size are zero and the last image of this
 * output stays. No answer is due.
 */
struct pinhole_cursor {
	struct pinhole_header header;
	uint32_t output;
	uint32_t flags; /* PINHOLE_CURSOR_* */
	int32_t x; /* of the hot spot, in pixels of the output; may lie outside */
	int32_t y;
	uint32_t hot_x; /* the hot spot inside the image */
	uint32_t hot_y;
	uint32_t width; /* pixels, at most PINHOLE_MAX_CURSOR */
	uint32_t height;
	uint32_t fourcc; /* DRM_FORMAT_ARGB8888 */
	uint32_t stride; /* bytes */
	uint64_t size; /* bytes of the memfd */
};

enum pinhole_error_code {
	PINHOLE_ERROR_VERSION = 1, /* no common version */
	PINHOLE_ERROR_MALFORMED = 2, /* a size, field or descriptor count is wrong */
	PINHOLE_ERROR_UNEXPECTED = 3, /* this message is not due now, or names what does not exist */
	PINHOLE_ERROR_DENIED = 4, /* this user may not look */
	PINHOLE_ERROR_TIMEOUT = 5, /* CONSUMER_HELLO did not come in time */
	PINHOLE_ERROR_TOO_SLOW = 6, /* too many BUFFER_REMOVE without BUFFER_CLOSED */
	PINHOLE_ERROR_LIMIT = 7, /* too many consumers */
	PINHOLE_ERROR_UNSUPPORTED = 8, /* a flag's feature does not hold, a DRM node lacks timelines */
	PINHOLE_ERROR_SHUTDOWN = 9, /* the producer ends */
};

/* The last message of a producer that closes the connection for a reason. */
struct pinhole_error {
	struct pinhole_header header;
	uint32_t code; /* enum pinhole_error_code */
	uint32_t message_type; /* of the message at fault, 0 if none is */
	uint32_t field_offset; /* bytes from its start to the field at fault, or PINHOLE_NO_FIELD */
	uint32_t reserved;
	char text[PINHOLE_TEXT_SIZE]; /* for people; UTF-8, ends with a NUL */
};

/* A FRAME needs no more reading. Carries a descriptor if release_kind is SYNC_FILE. */
struct pinhole_frame_done {
	struct pinhole_header header;
	uint32_t output;
	uint32_t release_kind; /* enum pinhole_fence */
	uint64_t serial; /* of a FRAME of this output that is not answered yet; any order */
	uint64_t release_point; /* of the output's timeline, at least 1; 0 unless TIMELINE */
};

/*
 * The answer to BUFFER_REMOVE: nothing of the generation is mapped or imported any more. It
 * counts as FRAME_DONE for those FRAMEs of the generation that were not answered.
 */
struct pinhole_buffer_closed {
	struct pinhole_header header;
	uint32_t buffer;
	uint32_t generation;
};

/*
 * The timeline of an output's release points, which has none yet; needs
 * PINHOLE_FEATURE_TIMELINE. Carries two descriptors: a drm_syncobj
 * (DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD) and an open DRM node whose driver has timelines. The producer
 * makes a handle of the syncobj in that open file and keeps both until TIMELINE_REMOVE.
 */
struct pinhole_timeline_add {
	struct pinhole_header header;
	uint32_t output;
	uint32_t reserved; /* 0 */
	uint32_t syncobj_index; /* which descriptor is the drm_syncobj, 0 or 1 */
	uint32_t node_index; /* which one is the DRM node, the other */
};

/* The output has no timeline any more. Points that FRAME_DONE named before are still waited for. */
struct pinhole_timeline_remove {
	struct pinhole_header header;
	uint32_t output;
	uint32_t reserved; /* 0 */
};

PINHOLE_ASSERT(sizeof(struct pinhole_header) == 8);
PINHOLE_ASSERT(sizeof(struct pinhole_consumer_hello) == 72);
PINHOLE_ASSERT(offsetof(struct pinhole_consumer_hello, flags) == 20);
PINHOLE_ASSERT(offsetof(struct pinhole_consumer_hello, features) == 24);
PINHOLE_ASSERT(offsetof(struct pinhole_consumer_hello, name) == 40);
PINHOLE_ASSERT(sizeof(struct pinhole_producer_hello) == 72);
PINHOLE_ASSERT(offsetof(struct pinhole_producer_hello, features) == 16);
PINHOLE_ASSERT(offsetof(struct pinhole_producer_hello, max_in_flight) == 24);
PINHOLE_ASSERT(offsetof(struct pinhole_producer_hello, name) == 40);
PINHOLE_ASSERT(sizeof(struct pinhole_output) == 32);
PINHOLE_ASSERT(sizeof(struct pinhole_plane) == 16);
PINHOLE_ASSERT(sizeof(struct pinhole_buffer_add) == 120);
PINHOLE_ASSERT(offsetof(struct pinhole_buffer_add, modifier) == 32);
PINHOLE_ASSERT(offsetof(struct pinhole_buffer_add, num_planes) == 48);
PINHOLE_ASSERT(offsetof(struct pinhole_buffer_add, planes) == 56);
PINHOLE_ASSERT(sizeof(struct pinhole_rect) == 16);
PINHOLE_ASSERT(sizeof(struct pinhole_frame) == 328);
PINHOLE_ASSERT(offsetof(struct pinhole_frame, serial) == 16);
PINHOLE_ASSERT(offsetof(struct pinhole_frame, crop) == 32);
PINHOLE_ASSERT(offsetof(struct pinhole_frame, acquire_kind) == 48);
PINHOLE_ASSERT(offsetof(struct pinhole_frame, timestamp_ns) == 64);
PINHOLE_ASSERT(offsetof(struct pinhole_frame, damage) == 72);
PINHOLE_ASSERT(sizeof(struct pinhole_buffer_remove) == 24);
PINHOLE_ASSERT(sizeof(struct pinhole_cursor) == 56);
PINHOLE_ASSERT(offsetof(struct pinhole_cursor, size) == 48);
PINHOLE_ASSERT(sizeof(struct pinhole_error) == 128);
PINHOLE_ASSERT(offsetof(struct pinhole_error, text) == 24);
PINHOLE_ASSERT(sizeof(struct pinhole_frame_done) == 32);
PINHOLE_ASSERT(offsetof(struct pinhole_frame_done, serial) == 16);
PINHOLE_ASSERT(sizeof(struct pinhole_buffer_closed) == 16);
PINHOLE_ASSERT(sizeof(struct pinhole_timeline_add) == 24);
PINHOLE_ASSERT(offsetof(struct pinhole_timeline_add, syncobj_index) == 16);
PINHOLE_ASSERT(sizeof(struct pinhole_timeline_remove) == 16);

#undef PINHOLE_ASSERT
#ifdef __cplusplus
}
#endif
#endif
