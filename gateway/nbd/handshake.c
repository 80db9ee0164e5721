/* handshake.c: fixed newstyle negotiation ("Handshake phase" in the protocol description).
 *
 * Each option is looked at only when it has arrived as a whole; its data are at most
 * HANDSHAKE_OPTION_MAX bytes. Nothing here opens, claims or changes anything: what an option can do
 * is to choose. Every length from the client is checked by the reader below before it is used.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "log.h"
#include "nbd/server-internal.h"
#include "nbd/wire.h"

enum {
	UNSENT_MAX = 64 << 10,
	BASE_ALLOCATION_ID = 1,
	TLS_HELLO = 0x1603, /* its first two bytes: a record of the handshake, of version 3.x */
};
static const char base_allocation[] = "base:allocation";

/* One option as received. Its data shrink as they are read. */
struct option {
	uint32_t type;
	const uint8_t *data;
	size_t left;
	bool malformed;
};

static uint16_t read_u16(struct option *option)
{
	if (option->left < 2) {
		option->malformed = true;
		return 0;
	}
	uint16_t value = get_u16(option->data);
	option->data += 2;
	option->left -= 2;
	return value;
}

static uint32_t read_u32(struct option *option)
{
	if (option->left < 4) {
		option->malformed = true;
		return 0;
	}
	uint32_t value = get_u32(option->data);
	option->data += 4;
	option->left -= 4;
	return value;
}

/* A string with its length before it. Zero bytes in it and lengths over 4096 are malformed. */
static void read_string(struct option *option, char text[NBD_MAX_STRING + 1])
{
	uint32_t length = read_u32(option);
	text[0] = '\0';
	if (option->malformed || length > option->left || length > NBD_MAX_STRING ||
		memchr(option->data, '\0', length)) {
		option->malformed = true;
		return;
	}
	memcpy(text, option->data, length);
	text[length] = '\0';
	option->data += length;
	option->left -= length;
}

/* Replies */

static void send_reply(struct nbd_connection *connection, uint32_t option, uint32_t type,
	const void *data, size_t length)
{
	uint8_t header[NBD_OPTION_REPLY_HEADER_SIZE];
	uint8_t *at = put_u64(header, NBD_REPLY_OPTION_MAGIC);
	at = put_u32(at, option);
	at = put_u32(at, type);
	put_u32(at, (uint32_t)length);
	if (!connection_send(connection, header, sizeof header) ||
		!connection_send(connection, data, length))
		connection_close(connection, "out of memory");
}

static void send_ack(struct nbd_connection *connection, const struct option *option)
{
	send_reply(connection, option->type, NBD_REP_ACK, "", 0);
}

static void send_error(
	struct nbd_connection *connection, const struct option *option, uint32_t type, const char *text)
{
	send_reply(connection, option->type, type, text, strlen(text));
}

static void send_malformed(struct nbd_connection *connection, const struct option *option)
{
	send_error(connection, option, NBD_REP_ERR_INVALID, "the option's data are malformed");
}

/* Choosing an export */

/* Names go to the log and back: no bytes of the client's choice. */
static void make_printable(char *text)
{
	for (char *c = text; *c; c++) {
		if (*c < ' ' || *c > '~')
			*c = '?';
	}
}

/* The export that a client may use under this name. If there is none: NULL, with the reason. */
static struct nbd_export *choose(
	const struct nbd_connection *connection, const char *name, struct reason *reason)
{
	struct nbd_export *export = server_find_export(connection, name);
	char shown[200];
	snprintf(shown, sizeof shown, "%s", name);
	make_printable(shown);
	if (!export)
		reason_set(reason, -ENOENT, "no export \"%s\" here", shown);
	else if (export->state == EXPORT_FAILED)
		*reason = export->reason;
	else
		return export;
	return NULL;
}

/* What the client is not told about an export that it asked for in vain. */
static const char *why_hidden(const struct nbd_connection *connection, const char *name)
{
	const struct nbd_export *export;
	LIST_FOR_EACH(export, &connection->server->exports, link)
	{
		if (strcmp(export->name, name) == 0 && !server_shows_export(connection, export))
			return " for it: its name is not among tls_names";
	}
	return "";
}

/* A client may not be served before its volume is; it waits, which costs it no time limit. */
static bool must_wait(const struct nbd_export *export)
{
	return export && export->state == EXPORT_STARTING;
}

static void begin_transmission(struct nbd_connection *connection, struct nbd_export *export)
{
	connection->export = export;
	export_await_writes(export);
	connection_enter_transmission(connection);
}

static bool handle_export_name(struct nbd_connection *connection, struct option *option)
{
	char name[NBD_MAX_STRING + 1];
	struct reason reason;
	if (option->left > NBD_MAX_STRING || memchr(option->data, '\0', option->left)) {
		connection_close(connection, "malformed export name");
		return true;
	}
	memcpy(name, option->data, option->left);
	name[option->left] = '\0';
	struct nbd_export *export = choose(connection, name, &reason);
	if (must_wait(export))
		return false;
	if (!export || server_is_full(connection->server)) { /* this option knows no error reply */
		connection_close(connection, "%s%s", export ? "too many clients" : reason.text,
			export ? "" : why_hidden(connection, name));
		return true;
	}
	uint8_t reply[8 + 2 + 124] = { 0 };
	uint8_t *at = put_u64(reply, export->geometry.size);
	put_u16(at, transmission_flags(connection, export, name));
	if (strcmp(connection->session.meta_name, name) != 0)
		connection->session.wants_allocation = false;
	if (connection_send(connection, reply, connection->session.no_zeroes ? 10 : sizeof reply))
		begin_transmission(connection, export);
	else
		connection_close(connection, "out of memory");
	return true;
}

static void send_info(struct nbd_connection *connection, const struct option *option, uint16_t type,
	const void *data, size_t length)
{
	uint8_t info[2 + NBD_MAX_STRING];
	put_bytes(put_u16(info, type), data, length);
	send_reply(connection, option->type, NBD_REP_INFO, info, 2 + length);
}

static void send_export_info(
	struct nbd_connection *connection, const struct option *option, const struct nbd_export *export,
	const char *name)
{
	uint8_t info[10];
	put_u16(put_u64(info, export->geometry.size), transmission_flags(connection, export, name));
	send_info(connection, option, NBD_INFO_EXPORT, info, sizeof info);
}

/* A client that does not ask for block sizes may send anything and is told so. */
static void send_block_sizes(struct nbd_connection *connection, const struct option *option,
	const struct nbd_export *export, bool asked)
{
	uint32_t minimum = asked ? export->geometry.block_min : 1;
	uint8_t info[12];
	put_u32(put_u32(put_u32(info, minimum), export->geometry.block_preferred), PAYLOAD_MAX);
	send_info(connection, option, NBD_INFO_BLOCK_SIZE, info, sizeof info);
}

static void send_text_info(struct nbd_connection *connection, const struct option *option,
	uint16_t type, const char *text)
{
	size_t length = strlen(text);
	send_info(connection, option, type, text, length < NBD_MAX_STRING ? length : NBD_MAX_STRING);
}

/* INFO and GO. False: the export is not ready, try again later. */
static bool handle_info_or_go(struct nbd_connection *connection, struct option *option)
{
	char name[NBD_MAX_STRING + 1];
	read_string(option, name);
	uint16_t count = read_u16(option);
	bool asked_name = false, asked_description = false, asked_block_sizes = false;
	for (unsigned i = 0; i < count && !option->malformed; i++) {
		uint16_t info = read_u16(option);
		asked_name = asked_name || info == NBD_INFO_NAME;
		asked_description = asked_description || info == NBD_INFO_DESCRIPTION;
		asked_block_sizes = asked_block_sizes || info == NBD_INFO_BLOCK_SIZE;
	}
	if (option->malformed || option->left > 0) {
		send_malformed(connection, option);
		return true;
	}
	struct reason reason;
	struct nbd_export *export = choose(connection, name, &reason);
	if (must_wait(export))
		return false;
	if (!export) {
		log_peer("client %s: %s%s", connection->peer, reason.text, why_hidden(connection, name));
		send_error(connection, option, NBD_REP_ERR_UNKNOWN, reason.text);
		return true;
	}
	if (option->type == NBD_OPT_GO && server_is_full(connection->server)) {
		send_error(connection, option, NBD_REP_ERR_POLICY, "too many clients");
		return true;
	}
	send_export_info(connection, option, export, name);
	if (asked_name)
		send_text_info(connection, option, NBD_INFO_NAME, export->name);
	if (asked_description && export->description)
		send_text_info(connection, option, NBD_INFO_DESCRIPTION, export->description);
	send_block_sizes(connection, option, export, asked_block_sizes);
	send_ack(connection, option);
	if (option->type == NBD_OPT_GO && connection->phase != PHASE_CLOSED) {
		connection->session.knows_block_sizes = asked_block_sizes;
		if (strcmp(connection->session.meta_name, name) != 0)
			connection->session.wants_allocation = false;
		begin_transmission(connection, export);
	}
	return true;
}

/* The other options */

static void handle_list(struct nbd_connection *connection, struct option *option)
{
	if (option->left > 0) {
		send_malformed(connection, option);
		return;
	}
	if (!connection->server->limits.list_exports) {
		send_error(connection, option, NBD_REP_ERR_POLICY, "exports are not listed here");
		return;
	}
	const struct nbd_export *export;
	LIST_FOR_EACH(export, &connection->server->exports, link)
	{
		uint8_t data[4 + sizeof export->name];
		size_t length = strlen(export->name);
		if (export->state == EXPORT_FAILED || export->state == EXPORT_LEAVING ||
			!server_shows_export(connection, export))
			continue;
		put_bytes(put_u32(data, (uint32_t)length), export->name, length);
		send_reply(connection, option->type, NBD_REP_SERVER, data, 4 + length);
	}
	send_ack(connection, option);
}

static void handle_structured_reply(struct nbd_connection *connection, struct option *option)
{
	if (option->left > 0) {
		send_malformed(connection, option);
	} else if (connection->session.extended) {
		send_error(connection, option, NBD_REP_ERR_EXT_HEADER_REQD,
			"extended headers are already in use");
	} else {
		connection->session.structured = true;
		send_ack(connection, option);
	}
}

static void handle_extended_headers(struct nbd_connection *connection, struct option *option)
{
	if (option->left > 0) {
		send_malformed(connection, option);
	} else if (connection->session.extended) {
		send_error(connection, option, NBD_REP_ERR_INVALID, "extended headers are already in use");
	} else {
		connection->session.structured = connection->session.extended = true;
		send_ack(connection, option);
	}
}

static void send_meta_context(
	struct nbd_connection *connection, const struct option *option, uint32_t id)
{
	uint8_t data[4 + sizeof base_allocation - 1];
	put_bytes(put_u32(data, id), base_allocation, sizeof base_allocation - 1);
	send_reply(connection, option->type, NBD_REP_META_CONTEXT, data, sizeof data);
}

/* False: the export is not ready, try again later. */
static bool handle_meta_context(struct nbd_connection *connection, struct option *option)
{
	bool set = option->type == NBD_OPT_SET_META_CONTEXT;
	struct session *session = &connection->session;
	char name[NBD_MAX_STRING + 1], query[NBD_MAX_STRING + 1];
	if (set) /* replaces what was chosen before, also when it fails */
		session->wants_allocation = false;
	if (!session->structured) {
		send_error(connection, option, NBD_REP_ERR_INVALID, "needs structured replies first");
		return true;
	}
	read_string(option, name);
	uint32_t count = read_u32(option);
	bool matches = count == 0 && !set; /* LIST without a query asks for everything */
	for (uint32_t i = 0; i < count && !option->malformed; i++) {
		read_string(option, query);
		if (strcmp(query, base_allocation) == 0 || (!set && strcmp(query, "base:") == 0))
			matches = true;
	}
	if (option->malformed || option->left > 0) {
		send_malformed(connection, option);
		return true;
	}
	struct reason reason;
	struct nbd_export *export = choose(connection, name, &reason);
	if (must_wait(export))
		return false;
	if (set)
		strcpy(session->meta_name, name);
	if (!export) {
		send_error(connection, option, NBD_REP_ERR_UNKNOWN, reason.text);
		return true;
	}
	if (matches && export->geometry.status) {
		session->wants_allocation = session->wants_allocation || set;
		send_meta_context(connection, option, set ? BASE_ALLOCATION_ID : 0);
	}
	send_ack(connection, option);
	return true;
}

/* Whatever has been said in clear text may have been said by somebody in between: it is forgotten, and what has
 * come behind the option already ends the connection, as it would be taken for something said within TLS. */
static void handle_starttls(struct nbd_connection *connection, const struct option *option)
{
	bool has_surplus = connection->receive_end > connection->receive_at;
	if (connection->tls) {
		send_error(connection, option, NBD_REP_ERR_INVALID, "TLS is in use already");
	} else if (!connection->needs_tls) {
		log_peer("client %s: asks for TLS where there is none: refused", connection->peer);
		send_error(connection, option, NBD_REP_ERR_POLICY, "TLS is not set up here");
	} else if (option->left > 0) {
		send_malformed(connection, option);
	} else if (has_surplus) {
		connection_close(connection, "clear text behind STARTTLS");
	} else {
		send_ack(connection, option);
		connection->session = (struct session){ .no_zeroes = connection->session.no_zeroes };
		if (connection->phase == PHASE_OPTIONS)
			connection->phase = PHASE_STARTTLS;
	}
}

/* The first option within TLS: from here on the log knows who it is. */
static void add_name(struct nbd_connection *connection)
{
	size_t used = strlen(connection->peer);
	snprintf(connection->peer + used, sizeof connection->peer - used, " (%.100s)", nbd_tls_peer(connection->tls));
	make_printable(connection->peer);
	connection->is_named = true;
}

/* Until it has begun TLS. */
static void handle_clear_text(struct nbd_connection *connection, const struct option *option)
{
	if (option->type == NBD_OPT_EXPORT_NAME) { /* it knows no error reply */
		connection_close(connection, "plain text on a TLS port");
		return;
	}
	if (!connection->was_warned)
		log_peer("client %s: plain text on a TLS port: refused", connection->peer);
	connection->was_warned = true;
	send_error(connection, option, NBD_REP_ERR_TLS_REQD, "this port needs TLS: STARTTLS first");
}

/* False: the option has to be looked at again when its export is ready. */
static bool handle_option(struct nbd_connection *connection, struct option *option)
{
	bool may_be_clear = option->type == NBD_OPT_STARTTLS || option->type == NBD_OPT_ABORT;
	if (connection->needs_tls && !connection->tls && !may_be_clear) {
		handle_clear_text(connection, option);
		return true;
	}
	if (connection->tls && !connection->is_named)
		add_name(connection);
	switch (option->type) {
	case NBD_OPT_EXPORT_NAME:
		return handle_export_name(connection, option);
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return handle_info_or_go(connection, option);
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		return handle_meta_context(connection, option);
	case NBD_OPT_ABORT:
		send_ack(connection, option);
		connection_finish(connection);
		break;
	case NBD_OPT_LIST:
		handle_list(connection, option);
		break;
	case NBD_OPT_STRUCTURED_REPLY:
		handle_structured_reply(connection, option);
		break;
	case NBD_OPT_EXTENDED_HEADERS:
		handle_extended_headers(connection, option);
		break;
	case NBD_OPT_STARTTLS:
		handle_starttls(connection, option);
		break;
	default:
		send_error(connection, option, NBD_REP_ERR_UNSUP, "unknown option");
	}
	return true;
}

/* Bytes */

static size_t received(const struct nbd_connection *connection)
{
	return connection->receive_end - connection->receive_at;
}

static void take_client_flags(struct nbd_connection *connection)
{
	const uint32_t known = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES;
	uint32_t flags = get_u32(connection->receive + connection->receive_at);
	connection->receive_at += sizeof flags;
	if (flags >> 16 == TLS_HELLO) {
		connection_close(connection, "begins with TLS instead of NBD, which asks for it by STARTTLS");
		return;
	}
	if (flags & ~known || !(flags & NBD_FLAG_C_FIXED_NEWSTYLE)) {
		connection_close(connection, "unknown client flags 0x%x", flags);
		return;
	}
	connection->session.no_zeroes = flags & NBD_FLAG_C_NO_ZEROES;
	connection->phase = PHASE_OPTIONS;
}

/* Handles one option. False: it is not complete, or has to wait. */
static bool take_option(struct nbd_connection *connection)
{
	const uint8_t *header = connection->receive + connection->receive_at;
	if (received(connection) < NBD_OPTION_HEADER_SIZE) {
		connection->wants_more = true;
		return false;
	}
	uint32_t length = get_u32(header + 12);
	if (get_u64(header) != NBD_OPTION_MAGIC) {
		connection_close(connection, "an option without its magic number");
		return false;
	}
	if (length > HANDSHAKE_OPTION_MAX - NBD_OPTION_HEADER_SIZE) {
		connection_close(connection, "an option with %u bytes of data", length);
		return false;
	}
	if (received(connection) < NBD_OPTION_HEADER_SIZE + (size_t)length) {
		connection->wants_more = true;
		return false;
	}
	struct option option = {
		.type = get_u32(header + 8),
		.data = header + NBD_OPTION_HEADER_SIZE,
		.left = length,
	};
	/* EXPORT_NAME and GO change where received bytes are kept: this option is done with first */
	connection->receive_at += NBD_OPTION_HEADER_SIZE + length;
	if (handle_option(connection, &option))
		return true;
	connection->receive_at -= NBD_OPTION_HEADER_SIZE + length;
	return false;
}

void handshake_continue(struct nbd_connection *connection)
{
	if (connection->phase == PHASE_GREETING) {
		if (received(connection) < sizeof(uint32_t)) {
			connection->wants_more = true;
			return;
		}
		take_client_flags(connection);
	}
	if (connection->phase == PHASE_STARTTLS && connection->out_end == 0) {
		connection->phase = PHASE_OPTIONS;
		connection_start_tls(connection);
	}
	while (connection->phase == PHASE_OPTIONS) {
		if (connection->out_end - connection->out_at > UNSENT_MAX) {
			connection->waits_for_output = true;
			return;
		}
		if (!take_option(connection))
			return;
	}
	if (connection->phase == PHASE_STARTTLS)
		connection->waits_for_output = true;
	if (connection->phase == PHASE_TRANSMISSION)
		transmission_continue(connection);
}

void handshake_begin(struct nbd_connection *connection)
{
	uint8_t greeting[18];
	uint8_t *at = put_u64(greeting, NBD_MAGIC);
	at = put_u64(at, NBD_OPTION_MAGIC);
	put_u16(at, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
	if (!connection_send(connection, greeting, sizeof greeting))
		connection_close(connection, "out of memory");
}
