#include "sled/region-info.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uuid/uuid.h>

#include "checked.h"
#include "cleanup.h"
#include "cli/cli.h"
#include "json-fields.h"
#include "volume/ports.h"
#include "volume/target.h"

enum { ANSWER_MAX = 4096, POLL_MS = 200 };

static const char *const paths[] = { "region-info", "region-mode" };
enum { INFO, MODE, PATHS };

/* One answer on its way. */
struct fetch {
	struct region_info *info;
	CURL *curl;
	CURLcode result;
	size_t length;
	char text[ANSWER_MAX];
};

static size_t on_data(char *data, size_t size, size_t count, void *context)
{
	struct fetch *fetch = context;
	if (size * count > sizeof fetch->text - fetch->length)
		return 0; /* not what we asked for: ends the transfer */
	memcpy(fetch->text + fetch->length, data, size * count);
	fetch->length += size * count;
	return size * count;
}

static bool take_url(const struct region_info *info, const char *path, char *url, size_t size)
{
	char host[TARGET_HOST_MAX];
	uint16_t port;
	if (target_parse(info->target, host, &port) < 0 || port > UINT16_MAX - PORT_REPAIR_OFFSET)
		return false;
	bool is_v6 = strchr(host, ':');
	snprintf(url, size, "http://%s%s%s:%u/%s", is_v6 ? "[" : "", host, is_v6 ? "]" : "", port + PORT_REPAIR_OFFSET, path);
	return true;
}

static int begin(struct fetch *fetch, CURLM *crowd, const char *path)
{
	char url[TARGET_HOST_MAX + 64];
	if (!take_url(fetch->info, path, url, sizeof url))
		return reason_set(&fetch->info->reason, -EINVAL, "%s: not HOST:PORT of a downstairs", fetch->info->target);
	fetch->curl = curl_easy_init();
	if (!fetch->curl)
		return reason_set(&fetch->info->reason, -ENOMEM, "out of memory");
	curl_easy_setopt(fetch->curl, CURLOPT_URL, url);
	curl_easy_setopt(fetch->curl, CURLOPT_PROTOCOLS_STR, "http");
	curl_easy_setopt(fetch->curl, CURLOPT_PROXY, "");
	curl_easy_setopt(fetch->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(fetch->curl, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(fetch->curl, CURLOPT_TIMEOUT, (long)REGION_INFO_SECONDS);
	curl_easy_setopt(fetch->curl, CURLOPT_WRITEFUNCTION, on_data);
	curl_easy_setopt(fetch->curl, CURLOPT_WRITEDATA, fetch);
	curl_easy_setopt(fetch->curl, CURLOPT_PRIVATE, fetch);
	fetch->result = CURLE_GOT_NOTHING;
	return curl_multi_add_handle(crowd, fetch->curl) == CURLM_OK
		? 0
		: reason_set(&fetch->info->reason, -ENOMEM, "out of memory");
}

static void wait_for_all(CURLM *crowd)
{
	int running = 1, left;
	while (running > 0 && curl_multi_perform(crowd, &running) == CURLM_OK && running > 0)
		curl_multi_poll(crowd, NULL, 0, POLL_MS, NULL);
	for (const CURLMsg *message; (message = curl_multi_info_read(crowd, &left));) {
		struct fetch *fetch;
		if (message->msg == CURLMSG_DONE && curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &fetch) == CURLE_OK)
			fetch->result = message->data.result;
	}
}

static bool parse_info(struct region_info *info, const char *text, size_t length)
{
	CLEANUP_JSON struct json_object *object = json_parse_object(text, length);
	struct json_object *extent;
	uuid_t uuid;
	uint64_t bytes;
	return object && json_text(object, "uuid", info->uuid, sizeof info->uuid) && uuid_parse(info->uuid, uuid) == 0 &&
		json_number(object, "block_size", &info->block_size) && json_number(object, "extent_count", &info->extents) &&
		json_object_object_get_ex(object, "extent_size", &extent) &&
		json_number(extent, "value", &info->extent_blocks) && json_switch(object, "encrypted", &info->encrypted) &&
		checked_mul(info->block_size, info->extent_blocks, &bytes) && checked_mul(bytes, info->extents, &info->size) &&
		info->size > 0 && info->size <= INT64_MAX;
}

static int judge(struct region_info *info, const struct fetch *fetches)
{
	for (unsigned i = 0; i < PATHS; i++) {
		CURLcode result = fetches[i].result;
		if (result != CURLE_OK)
			return reason_set(&info->reason, result == CURLE_OPERATION_TIMEDOUT ? -ETIMEDOUT : -EHOSTUNREACH,
				"%s: its downstairs cannot be asked: %s", info->target, curl_easy_strerror(result));
	}
	const struct fetch *mode = &fetches[MODE];
	bool is_mode = (mode->length == 4 && memcmp(mode->text, "true", 4) == 0) ||
		(mode->length == 5 && memcmp(mode->text, "false", 5) == 0);
	info->read_only = mode->length == 4;
	if (!is_mode || !parse_info(info, fetches[INFO].text, fetches[INFO].length))
		return reason_set(&info->reason, -EBADMSG, "%s: what answers on port + %d is no crucible-downstairs", info->target,
			PORT_REPAIR_OFFSET);
	return 0;
}

int region_infos_get(struct region_info *infos, size_t count)
{
	CLEANUP_FREE struct fetch *fetches = calloc(count * PATHS + 1, sizeof *fetches);
	CURLM *crowd = curl_multi_init();
	int first = 0;
	for (size_t i = 0; i < count; i++) {
		infos[i].error = fetches && crowd ? 0 : reason_set(&infos[i].reason, -ENOMEM, "out of memory");
		for (unsigned k = 0; k < PATHS && infos[i].error == 0; k++) {
			fetches[i * PATHS + k].info = &infos[i];
			infos[i].error = begin(&fetches[i * PATHS + k], crowd, paths[k]);
		}
	}
	if (fetches && crowd)
		wait_for_all(crowd);
	for (size_t i = 0; i < count; i++) {
		if (infos[i].error == 0)
			infos[i].error = judge(&infos[i], &fetches[i * PATHS]);
		if (first == 0)
			first = infos[i].error;
	}
	for (size_t i = 0; fetches && i < count * PATHS; i++) {
		if (fetches[i].curl) {
			curl_multi_remove_handle(crowd, fetches[i].curl);
			curl_easy_cleanup(fetches[i].curl);
		}
	}
	curl_multi_cleanup(crowd);
	return first;
}

int region_infos_wait(struct region_info *infos, size_t count, unsigned seconds)
{
	const time_t deadline = time(NULL) + (time_t)seconds; /* a clock that jumps changes how long, not whether */
	int status = region_infos_get(infos, count);
	while ((status == -EHOSTUNREACH || status == -ETIMEDOUT) && time(NULL) < deadline && !was_interrupted()) {
		usleep(POLL_MS * 1000 / 4);
		status = region_infos_get(infos, count);
	}
	return was_interrupted() ? -EINTR : status;
}
