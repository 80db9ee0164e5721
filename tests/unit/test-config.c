#include <errno.h>
#include <string.h>

#include "scratch.h"
#include "unit.h"

static struct config config;
static struct faults faults;

static int teardown(void **state)
{
	config_free(&config);
	config = (struct config){ 0 };
	faults_free(&faults);
	return scratch_teardown(state);
}

static int read_text(const char *text)
{
	const char *path = in_scratch("tb4.conf");
	put_text_in(path, text);
	faults = (struct faults){ 0 };
	return config_read(path, &config, &faults);
}

static void an_empty_file_gives_the_defaults_of_the_design(void **state)
{
	(void)state;
	assert_int_equal(read_text(""), 0);
	assert_string_equal(config.run_dir, "/run/tb4");
	assert_string_equal(config.data_dir, "/var/lib/tb4/volumes");
	assert_null(config.listen);
	assert_null(config.allow_users);
	assert_true(config.list_exports);
	assert_int_equal(config.direct, CONFIG_DIRECT_AUTO);
	assert_int_equal(config.log_level, CONFIG_LOG_INFO);
}

static void the_node_is_the_short_host_name_unless_named(void **state)
{
	(void)state;
	assert_int_equal(read_text(""), 0);
	assert_null(strchr(config.node_name, '.'));
	assert_true(config.node_name[0] != '\0');
	config_free(&config);
	assert_int_equal(read_text("[node]\nname = other\n"), 0);
	assert_string_equal(config.node_name, "other");
}

static void paths_of_the_file_count(void **state)
{
	(void)state;
	assert_int_equal(
		read_text("[paths]\nrun_dir = /r\nvolume_dir = /v\nclaim_dir = /c\ndata_dir = /d\n"), 0);
	assert_string_equal(config.run_dir, "/r");
	assert_string_equal(config.volume_dir, "/v");
	assert_string_equal(config.claim_dir, "/c");
	assert_string_equal(config.data_dir, "/d");
}

static void a_named_file_must_exist(void **state)
{
	(void)state;
	const char *path = in_scratch("none.conf");
	faults = (struct faults){ 0 };
	assert_int_equal(config_read(path, &config, &faults), -ENOENT);
	assert_int_equal(faults.count, 1);
	assert_string_equal(faults.items[0].path, path);
}

static void a_connection_may_not_have_more_memory_than_all(void **state)
{
	(void)state;
	assert_int_equal(read_text("[nbd]\nmemory = 64M\nconnection_memory = 65M\n"), -EBADMSG);
	assert_int_equal(faults.count, 1);
	assert_non_null(strstr(faults.items[0].text, "connection_memory"));
}

static void a_faulty_file_still_gives_every_path(void **state)
{
	(void)state;
	assert_int_equal(read_text("[paths]\nrun_dir = relative\n[nbd]\nmemory = 1\n"), -EBADMSG);
	assert_int_equal(faults.count, 2);
	assert_int_equal(faults.items[0].line, 2);
	assert_int_equal(faults.items[1].line, 4);
	assert_string_equal(config.run_dir, "/run/tb4");
	assert_non_null(config.volume_dir);
	assert_non_null(config.claim_dir);
	assert_non_null(config.node_name);
}

/* One request of the largest size must fit, or its client would wait for ever. */
static void no_limit_of_memory_is_below_the_largest_request(void **state)
{
	(void)state;
	assert_int_equal(read_text("[nbd]\nmemory = 64M\nconnection_memory = 31M\n"), -EBADMSG);
	config_free(&config);
	faults_free(&faults);
	assert_int_equal(read_text("[nbd]\nmemory = 63M\nconnection_memory = 32M\n"), -EBADMSG);
}

static void every_setting_has_a_help_text_and_a_unique_name(void **state)
{
	(void)state;
	for (size_t i = 0; i < config_table_size; i++) {
		assert_true(strlen(config_table[i].help) > 0);
		for (size_t k = 0; k < i; k++)
			assert_false(strcmp(config_table[i].section, config_table[k].section) == 0 &&
						 strcmp(config_table[i].name, config_table[k].name) == 0);
	}
}

#define test(function) cmocka_unit_test_setup_teardown(function, scratch_setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(an_empty_file_gives_the_defaults_of_the_design),
		test(the_node_is_the_short_host_name_unless_named),
		test(paths_of_the_file_count),
		test(a_named_file_must_exist),
		test(a_connection_may_not_have_more_memory_than_all),
		test(a_faulty_file_still_gives_every_path),
		test(no_limit_of_memory_is_below_the_largest_request),
		test(every_setting_has_a_help_text_and_a_unique_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
