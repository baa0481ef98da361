#include "ph_pipewire.h"
#include <errno.h>
#include <pipewire/pipewire.h>
#include <spa/param/buffers.h>
#include <spa/param/video/format-utils.h>
#include <spa/utils/names.h>
#include <stdlib.h>
#include <string.h>

struct ph_pw {
	struct pw_loop *loop;
	struct pw_context *context;
	struct pw_core *core;
	struct spa_hook listener;
	/* Keeps a library loaded that streams look for when it cannot be opened any more. */
	struct spa_handle *converter;
	int is_lost;
};

struct buffer {
	struct pw_buffer *pw; /* NULL: not one of the node's */
	int is_queued;
	int is_ours; /* dequeued: may be queued */
};

struct ph_pw_node {
	struct pw_stream *stream;
	struct spa_hook listener;
	struct ph_pw_shape shape;
	struct ph_pw_callbacks callbacks;
	void *user;
	struct buffer buffers[PH_PW_MAX_BUFFERS];
	int is_streaming;
};

static void core_error(void *data, uint32_t id, int seq, int res, const char *message)
{
	struct ph_pw *pw = data;
	(void)seq;
	(void)message;
	if (id == PW_ID_CORE && res == -EPIPE)
		pw->is_lost = 1;
}

static const struct pw_core_events core_events = {PW_VERSION_CORE_EVENTS, .error = core_error};

struct ph_pw *ph_pw_new(int *error)
{
	struct ph_pw *pw = calloc(1, sizeof *pw);
	if (!pw) {
		*error = ENOMEM;
		return NULL;
	}
	pw_init(NULL, NULL);
	pw->loop = pw_loop_new(NULL);
	if (pw->loop) {
		pw_loop_enter(pw->loop);
		pw->context = pw_context_new(pw->loop, NULL, 0);
	}
	if (!pw->context) {
		*error = errno ? errno : EIO;
		ph_pw_free(pw);
		return NULL;
	}
	pw->converter =
		pw_context_load_spa_handle(pw->context, SPA_NAME_VIDEO_CONVERT_DUMMY, NULL);
	return pw;
}

void ph_pw_free(struct ph_pw *pw)
{
	ph_pw_disconnect(pw);
	if (pw->converter)
		pw_unload_spa_handle(pw->converter);
	if (pw->context)
		pw_context_destroy(pw->context);
	if (pw->loop) {
		pw_loop_leave(pw->loop);
		pw_loop_destroy(pw->loop);
	}
	free(pw);
}

int ph_pw_fd(struct ph_pw *pw) { return pw_loop_get_fd(pw->loop); }

void ph_pw_turn(struct ph_pw *pw)
{
	for (int i = 0; i < 16; i++)
		if (pw_loop_iterate(pw->loop, 0) <= 0)
			return;
}

int ph_pw_connect(struct ph_pw *pw, const char *remote)
{
	struct pw_properties *properties = NULL;
	if (remote)
		properties = pw_properties_new(PW_KEY_REMOTE_NAME, remote, NULL);
	pw->is_lost = 0;
	pw->core = pw_context_connect(pw->context, properties, 0);
	if (!pw->core)
		return -(errno ? errno : EIO);
	spa_zero(pw->listener);
	pw_core_add_listener(pw->core, &pw->listener, &core_events, pw);
	return 0;
}

int ph_pw_is_connected(struct ph_pw *pw) { return pw->core && !pw->is_lost; }

void ph_pw_disconnect(struct ph_pw *pw)
{
	if (!pw->core)
		return;
	spa_hook_remove(&pw->listener);
	pw_core_disconnect(pw->core);
	pw->core = NULL;
}

static uint32_t video_format(uint32_t order)
{
	switch (order) {
	case PH_PW_RGBX:
		return SPA_VIDEO_FORMAT_RGBx;
	case PH_PW_XRGB:
		return SPA_VIDEO_FORMAT_xRGB;
	case PH_PW_XBGR:
		return SPA_VIDEO_FORMAT_xBGR;
	default:
		return SPA_VIDEO_FORMAT_BGRx;
	}
}

/* Frames come when the guest draws: no rate of their own. */
static const struct spa_pod *format_of(struct spa_pod_builder *b, struct ph_pw_shape shape)
{
	return spa_pod_builder_add_object(
		b, SPA_TYPE_OBJECT_Format, SPA_PARAM_EnumFormat, SPA_FORMAT_mediaType,
		SPA_POD_Id(SPA_MEDIA_TYPE_video), SPA_FORMAT_mediaSubtype,
		SPA_POD_Id(SPA_MEDIA_SUBTYPE_raw), SPA_FORMAT_VIDEO_format,
		SPA_POD_Id(video_format(shape.order)), SPA_FORMAT_VIDEO_size,
		SPA_POD_Rectangle(&SPA_RECTANGLE(shape.width, shape.height)),
		SPA_FORMAT_VIDEO_framerate, SPA_POD_Fraction(&SPA_FRACTION(0, 1)),
		SPA_FORMAT_VIDEO_maxFramerate,
		SPA_POD_CHOICE_RANGE_Fraction(&SPA_FRACTION(60, 1), &SPA_FRACTION(1, 1),
					      &SPA_FRACTION(240, 1)));
}

static void offer_buffers(struct ph_pw_node *node)
{
	uint8_t room[1024];
	struct spa_pod_builder b = SPA_POD_BUILDER_INIT(room, sizeof room);
	const struct spa_pod *params[3];

	params[0] = spa_pod_builder_add_object(
		&b, SPA_TYPE_OBJECT_ParamBuffers, SPA_PARAM_Buffers, SPA_PARAM_BUFFERS_buffers,
		/* pipewiresrc wants 8 unless told otherwise */
		SPA_POD_CHOICE_RANGE_Int(6, 3, 32), SPA_PARAM_BUFFERS_blocks, SPA_POD_Int(1),
		SPA_PARAM_BUFFERS_size, SPA_POD_Int((int)node->shape.size),
		SPA_PARAM_BUFFERS_stride, SPA_POD_Int((int)node->shape.stride),
		SPA_PARAM_BUFFERS_dataType, SPA_POD_CHOICE_FLAGS_Int(1 << SPA_DATA_MemFd));
	params[1] = spa_pod_builder_add_object(
		&b, SPA_TYPE_OBJECT_ParamMeta, SPA_PARAM_Meta, SPA_PARAM_META_type,
		SPA_POD_Id(SPA_META_Header), SPA_PARAM_META_size,
		SPA_POD_Int(sizeof(struct spa_meta_header)));
	params[2] = spa_pod_builder_add_object(
		&b, SPA_TYPE_OBJECT_ParamMeta, SPA_PARAM_Meta, SPA_PARAM_META_type,
		SPA_POD_Id(SPA_META_VideoDamage), SPA_PARAM_META_size,
		SPA_POD_CHOICE_RANGE_Int(sizeof(struct spa_meta_region) * PH_PW_MAX_DAMAGE,
					 sizeof(struct spa_meta_region),
					 sizeof(struct spa_meta_region) * PH_PW_MAX_DAMAGE));
	pw_stream_update_params(node->stream, params, 3);
}

static void param_changed(void *data, uint32_t id, const struct spa_pod *param)
{
	if (id == SPA_PARAM_Format && param)
		offer_buffers(data);
}

static void state_changed(void *data, enum pw_stream_state old, enum pw_stream_state state,
			  const char *error)
{
	struct ph_pw_node *node = data;
	int on = state == PW_STREAM_STATE_STREAMING;
	(void)old;
	(void)error;
	if (on == node->is_streaming)
		return;
	node->is_streaming = on;
	node->callbacks.streaming(node->user, on);
}

static struct buffer *buffer_of(struct ph_pw_node *node, const struct pw_buffer *pw)
{
	for (int i = 0; i < PH_PW_MAX_BUFFERS; i++)
		if (node->buffers[i].pw == pw)
			return &node->buffers[i];
	return NULL;
}

static void add_buffer(void *data, struct pw_buffer *pw)
{
	struct ph_pw_node *node = data;
	struct buffer *buffer = buffer_of(node, NULL);
	struct spa_data *memory = &pw->buffer->datas[0];
	uint32_t size = 0;
	int fd = -1;

	if (buffer) {
		uint32_t id = (uint32_t)(buffer - node->buffers);
		buffer->pw = pw;
		buffer->is_queued = 0;
		buffer->is_ours = 0;
		fd = node->callbacks.memory(node->user, id, &size);
	}
	memory->type = fd < 0 ? SPA_DATA_Invalid : SPA_DATA_MemFd;
	memory->flags = SPA_DATA_FLAG_READABLE;
	memory->fd = fd;
	memory->mapoffset = 0;
	memory->maxsize = size;
	memory->data = NULL;
}

static void remove_buffer(void *data, struct pw_buffer *pw)
{
	struct ph_pw_node *node = data;
	struct buffer *buffer = buffer_of(node, pw);
	/* Its descriptor is ours: nobody here shall close it. */
	pw->buffer->datas[0].fd = -1;
	if (!buffer)
		return;
	memset(buffer, 0, sizeof *buffer);
	node->callbacks.removed(node->user, (uint32_t)(buffer - node->buffers));
}

static void collect(struct ph_pw_node *node)
{
	struct pw_buffer *pw;
	while ((pw = pw_stream_dequeue_buffer(node->stream))) {
		struct buffer *buffer = buffer_of(node, pw);
		if (!buffer)
			continue;
		buffer->is_ours = 1;
		if (!buffer->is_queued)
			continue;
		buffer->is_queued = 0;
		node->callbacks.released(node->user, (uint32_t)(buffer - node->buffers));
	}
}

static void process(void *data) { collect(data); }

static const struct pw_stream_events stream_events = {
	PW_VERSION_STREAM_EVENTS,
	.state_changed = state_changed,
	.param_changed = param_changed,
	.add_buffer = add_buffer,
	.remove_buffer = remove_buffer,
	.process = process,
};

struct ph_pw_node *ph_pw_node_new(struct ph_pw *pw, const char *name, const char *description,
				  const char *role, struct ph_pw_shape shape,
				  const struct ph_pw_callbacks *callbacks, void *user, int *error)
{
	uint8_t room[1024];
	struct spa_pod_builder b = SPA_POD_BUILDER_INIT(room, sizeof room);
	struct ph_pw_node *node = calloc(1, sizeof *node);
	int r = -ENOMEM;

	if (node) {
		node->shape = shape;
		node->callbacks = *callbacks;
		node->user = user;
		node->stream = pw_stream_new(
			pw->core, name,
			pw_properties_new(PW_KEY_MEDIA_TYPE, "Video", PW_KEY_MEDIA_CATEGORY, "Capture",
					  PW_KEY_MEDIA_ROLE, role, PW_KEY_MEDIA_CLASS, "Video/Source",
					  PW_KEY_NODE_NAME, name, PW_KEY_NODE_DESCRIPTION, description,
					  PW_KEY_PRIORITY_DRIVER, "10000", NULL));
		r = -(errno ? errno : EIO);
	}
	if (node && node->stream) {
		const struct spa_pod *format = format_of(&b, shape);
		pw_stream_add_listener(node->stream, &node->listener, &stream_events, node);
		r = pw_stream_connect(node->stream, PW_DIRECTION_OUTPUT, PW_ID_ANY,
				      PW_STREAM_FLAG_DRIVER | PW_STREAM_FLAG_ALLOC_BUFFERS |
					      PW_STREAM_FLAG_NO_CONVERT,
				      &format, 1);
		if (r >= 0)
			return node;
	}
	*error = -r;
	if (node)
		ph_pw_node_free(node);
	return NULL;
}

void ph_pw_node_free(struct ph_pw_node *node)
{
	if (node->stream)
		pw_stream_destroy(node->stream);
	free(node);
}

void ph_pw_node_reshape(struct ph_pw_node *node, struct ph_pw_shape shape)
{
	uint8_t room[1024];
	struct spa_pod_builder b = SPA_POD_BUILDER_INIT(room, sizeof room);
	const struct spa_pod *format = format_of(&b, shape);
	node->shape = shape;
	pw_stream_update_params(node->stream, &format, 1);
}

int ph_pw_node_is_free(struct ph_pw_node *node, uint32_t id)
{
	return id < PH_PW_MAX_BUFFERS && node->buffers[id].pw && node->buffers[id].is_ours;
}

int ph_pw_node_queue(struct ph_pw_node *node, uint32_t id, uint32_t offset, uint32_t size,
		     int64_t pts, uint64_t sequence, const struct ph_pw_rect *damage, int count)
{
	if (!ph_pw_node_is_free(node, id))
		return -EBUSY;
	struct buffer *buffer = &node->buffers[id];
	struct spa_buffer *spa = buffer->pw->buffer;
	struct spa_meta_header *header =
		spa_buffer_find_meta_data(spa, SPA_META_Header, sizeof *header);
	if (header) {
		header->flags = 0;
		header->offset = 0;
		header->pts = pts;
		header->dts_offset = 0;
		header->seq = sequence;
	}
	struct spa_meta *meta = spa_buffer_find_meta(spa, SPA_META_VideoDamage);
	if (meta) {
		struct spa_meta_region *region = spa_meta_first(meta);
		int i = 0;
		for (; i < count && spa_meta_check(region, meta); i++, region++)
			region->region = SPA_REGION(damage[i].x, damage[i].y, damage[i].width,
						    damage[i].height);
		/* No room for all of them: anything may have changed. */
		if (i < count) {
			region = spa_meta_first(meta);
			region->region =
				SPA_REGION(0, 0, node->shape.width, node->shape.height);
			region++;
		}
		/* An empty one ends the list. */
		if (spa_meta_check(region, meta))
			region->region = SPA_REGION(0, 0, 0, 0);
	}
	struct spa_chunk *chunk = spa->datas[0].chunk;
	chunk->offset = offset;
	chunk->size = size;
	chunk->stride = (int32_t)node->shape.stride;
	chunk->flags = 0;
	buffer->is_queued = 1;
	buffer->is_ours = 0;
	int r = pw_stream_queue_buffer(node->stream, buffer->pw);
	if (r >= 0 && pw_stream_is_driving(node->stream))
		pw_stream_trigger_process(node->stream);
	return r;
}

void ph_pw_node_collect(struct ph_pw_node *node)
{
	collect(node);
	if (pw_stream_is_driving(node->stream))
		pw_stream_trigger_process(node->stream);
}
