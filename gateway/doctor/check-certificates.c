/* check-certificates.c: the certificates that tb4.conf names. */
#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "doctor/doctor.h"
#include "durable-file.h"
#include "tls.h"

enum { DAY = 86400, NEAR_DAYS = 30 };

static void judge_times(const struct doctor *doctor, const char *path, gnutls_x509_crt_t certificate, struct report *report)
{
	int64_t begin = gnutls_x509_crt_get_activation_time(certificate);
	int64_t end = gnutls_x509_crt_get_expiration_time(certificate);
	int64_t now = doctor->host.now, days = (end - now) / DAY;
	time_t when = (time_t)end;
	struct tm broken;
	char date[32] = "?";
	if (gmtime_r(&when, &broken))
		strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", &broken);
	if (end <= now)
		FOUND_ERROR(report, path, "the certificate expired on %s", date);
	else if (begin > now)
		FOUND_ERROR(report, path, "the certificate is not valid yet: is the clock right?");
	else if (days < NEAR_DAYS)
		FOUND_WARNING(report, path, "the certificate expires in %" PRId64 " day%s, on %s", days, days == 1 ? "" : "s", date);
	else
		return;
	report_next(report, begin > now ? "timedatectl" : "put a new one into %s, then restart the gateways", path);
}

static void judge_file(const struct doctor *doctor, const char *path, struct report *report)
{
	CLEANUP_FREE char *text = NULL;
	size_t length;
	struct reason reason;
	gnutls_x509_crt_t *certificates;
	unsigned count;
	int status = durable_file_read(path, &text, &length, &reason);
	if (status < 0) {
		FOUND_ERROR(report, path, "the certificate cannot be read: %s", strerror(-status));
		report_next(report, "put the file there, or correct tb4.conf");
		return;
	}
	gnutls_datum_t data = { .data = (unsigned char *)text, .size = (unsigned)length };
	status = gnutls_x509_crt_list_import2(&certificates, &count, &data, GNUTLS_X509_FMT_PEM, 0);
	if (status < 0) {
		FOUND_ERROR(report, path, "no certificate: %s", gnutls_strerror(status));
		report_next(report, "openssl x509 -in %s -noout -text", path);
		return;
	}
	for (unsigned i = 0; i < count; i++) {
		judge_times(doctor, path, certificates[i], report);
		gnutls_x509_crt_deinit(certificates[i]);
	}
	gnutls_free(certificates);
}

/* [tls]; whether they can be used says `tb4 check`. */
static void check_own(const struct doctor *doctor, struct report *report)
{
	const struct nbd_credential_files *files = &doctor->config.tls;
	if (files->authority)
		judge_file(doctor, files->authority, report);
	if (files->certificate)
		judge_file(doctor, files->certificate, report);
}

void check_certificates(const struct doctor *doctor, struct report *report)
{
	const struct config *config = &doctor->config;
	char why[300];
	check_own(doctor, report);
	if (!config->tls_authority || !config->tls_certificate || !config->tls_key)
		return;
	size_t before = report->counts[SEVERITY_ERROR];
	judge_file(doctor, config->tls_authority, report);
	judge_file(doctor, config->tls_certificate, report);
	if (report->counts[SEVERITY_ERROR] > before)
		return;
	struct tls_identity *identity = tls_identity_open(config->tls_authority, config->tls_certificate, config->tls_key, why,
		sizeof why);
	if (!identity) {
		FOUND_ERROR(report, config->tls_key, "certificate and key cannot be used: %s", why);
		report_next(report, "correct [crucible] in tb4.conf");
	}
	tls_identity_close(identity);
}
