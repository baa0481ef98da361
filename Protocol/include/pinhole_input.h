/*
 * Input for a guest: the protocol between `pinhole input` and those who control a guest, such as
 * a remote screen. The rules are in input.md.
 *
 * A Unix socket of type SOCK_SEQPACKET; one message is one packet of exactly header.size bytes;
 * numbers are in the machine's order. No descriptors travel.
 */
#ifndef PINHOLE_INPUT_H
#define PINHOLE_INPUT_H

#include <stdint.h>

#define PINHOLE_INPUT_MAGIC 0x4e494850u /* "PHIN" */
#define PINHOLE_INPUT_VERSION 1u
/* Bytes of the longest message. */
#define PINHOLE_INPUT_MAX_MESSAGE 280u
/* Events in one message. */
#define PINHOLE_INPUT_MAX_EVENTS 32u

enum pinhole_input_message {
	/* controller to pinhole */
	PINHOLE_INPUT_HELLO = 1,
	PINHOLE_INPUT_EVENTS = 2,
	/* pinhole to controller */
	PINHOLE_INPUT_WELCOME = 0x101,
	PINHOLE_INPUT_LEDS = 0x102,
	PINHOLE_INPUT_ERROR = 0x103,
};

/* What there is to control: bits of pinhole_input_welcome.devices. */
#define PINHOLE_INPUT_KEYBOARD (1u << 0)
#define PINHOLE_INPUT_TABLET (1u << 1)
#define PINHOLE_INPUT_MOUSE (1u << 2)

enum pinhole_input_error_code {
	/* A message that is not one, or not the one that may come now. */
	PINHOLE_INPUT_ERROR_MALFORMED = 1,
	/* No common version. */
	PINHOLE_INPUT_ERROR_VERSION = 2,
	/* Too many controllers. */
	PINHOLE_INPUT_ERROR_LIMIT = 3,
	/* No HELLO in time. */
	PINHOLE_INPUT_ERROR_TIMEOUT = 4,
	/* pinhole ends. */
	PINHOLE_INPUT_ERROR_SHUTDOWN = 5,
};

struct pinhole_input_header {
	uint32_t type; /* enum pinhole_input_message */
	uint32_t size; /* bytes of the whole message */
};

/* The first message of a controller. */
struct pinhole_input_hello {
	struct pinhole_input_header header;
	uint32_t magic;
	uint32_t version;
	char name[32]; /* for people, ends with NUL */
};

/* linux/input-event-codes.h */
struct pinhole_input_event {
	uint16_t type; /* EV_KEY, EV_REL or EV_ABS */
	uint16_t code;
	int32_t value; /* EV_KEY: 0 up, 1 down; EV_ABS: pixels of the output */
};

/* What happened at one moment: a frame of events, without EV_SYN. */
struct pinhole_input_events {
	struct pinhole_input_header header; /* size: 24 + 8 * count */
	uint32_t output; /* which output of the guest the pixels belong to */
	uint32_t width;  /* of the output in pixels; 0 without EV_ABS */
	uint32_t height;
	uint32_t count; /* 1 to PINHOLE_INPUT_MAX_EVENTS */
	struct pinhole_input_event events[PINHOLE_INPUT_MAX_EVENTS];
};

/* The answer to HELLO. */
struct pinhole_input_welcome {
	struct pinhole_input_header header;
	uint32_t version;
	uint32_t devices; /* PINHOLE_INPUT_KEYBOARD and others */
	uint32_t leds;    /* as in pinhole_input_leds */
	uint32_t reserved;
};

/* The guest switched lamps of its keyboard. */
struct pinhole_input_leds {
	struct pinhole_input_header header;
	uint32_t leds; /* 1 << LED_NUML, 1 << LED_CAPSL, ... */
	uint32_t reserved;
};

/* Why the connection ends. */
struct pinhole_input_error {
	struct pinhole_input_header header;
	uint32_t code; /* enum pinhole_input_error_code */
	uint32_t reserved;
	char text[112]; /* for people, ends with NUL */
};

#endif
