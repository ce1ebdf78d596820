/* Runs ClickHouse's server code out of chdb's shared library: launcher LIBRARY ARGUMENTS... */
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments) {
    if (count < 2) return 2;
    void *library = dlopen(arguments[1], RTLD_NOW);
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 2;
    void *(*run)(int, char **) = dlsym(library, "query_stable_v2");
    void (*handlers)(int) = dlsym(library, "chdb_set_signal_handlers_enabled");
    if (!run) return fprintf(stderr, "the library has no query_stable_v2: is it another version?\n"), 2;
    if (handlers) handlers(0);
    arguments[1] = "clickhouse";
    return run(count - 1, arguments + 1) ? 0 : 1;
}
