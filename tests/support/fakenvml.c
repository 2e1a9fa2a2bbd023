/* A shared library where libnvidia-ml.so.1 is looked for: two GPUs, about twenty symbols, every one of which can be
 * told to answer another code. FAKENVML="nvmlDeviceGetPowerUsage=15 nvmlInitWithFlags=9" in the environment does that.
 * FAKENVML_READS="nvmlDeviceGetTemperature=/path" has a call read a file first, where there is one.
 * The symbols that are not here are missing, as in a driver of another age. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { int index; } gpu_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_t;
typedef struct { unsigned version; int celsius; } margin_t;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type;
    int code;
    union { double d; unsigned u; unsigned long long ull; int i; } value;
} field_t;

static gpu_t gpus[2] = {{0}, {1}};

static int told(const char *name)
{
    const char *script = getenv("FAKENVML");
    size_t length = strlen(name);
    for (const char *at = script; at != NULL && (at = strstr(at, name)) != NULL; at += length)
        if (at[length] == '=' && (at == script || at[-1] == ' '))
            return atoi(at + length + 1);
    return 0;
}

static void wait_for_a_file(const char *name)
{
    const char *what = getenv("FAKENVML_READS");
    size_t length = strlen(name);
    if (what == NULL || strncmp(what, name, length) != 0 || what[length] != '=')
        return;
    char byte;
    int file = open(what + length + 1, O_RDONLY);
    if (file >= 0) {
        (void)!read(file, &byte, 1);
        close(file);
    }
}

#define ANSWER(...) do { wait_for_a_file(__func__); int code = told(__func__); if (code == 0) { __VA_ARGS__; } return code; } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; ANSWER((void)0); }
int nvmlShutdown(void) { ANSWER((void)0); }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { ANSWER(snprintf(text, size, "590.48.01")); }
int nvmlSystemGetNVMLVersion(char *text, unsigned size) { ANSWER(snprintf(text, size, "13.590.48.01")); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { ANSWER(*version = 13010); }
int nvmlDeviceGetCount_v2(unsigned *count) { ANSWER(*count = 2); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu_t **handle)
{
    if (index == 1 && told("second"))
        return told("second");
    ANSWER(*handle = &gpus[index]);
}

int nvmlDeviceGetPciInfo_v3(gpu_t *gpu, pci_t *pci)
{
    ANSWER(
        pci->domain = 0; pci->bus = 0x3b + gpu->index; pci->device = 0;
        snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus));
}

int nvmlDeviceGetUUID(gpu_t *gpu, char *text, unsigned size) { ANSWER(snprintf(text, size, "GPU-%d", gpu->index)); }
int nvmlDeviceGetName(gpu_t *gpu, char *text, unsigned size)
{
    ANSWER(snprintf(text, size, gpu->index ? "NVIDIA \xff\xfe" : "NVIDIA Fake 4090"));
}
int nvmlDeviceGetMinorNumber(gpu_t *gpu, unsigned *minor) { ANSWER(*minor = 7 + gpu->index); }

int nvmlDeviceGetTemperature(gpu_t *gpu, unsigned sensor, unsigned *celsius)
{
    (void)sensor;
    ANSWER(*celsius = gpu->index ? 644245923u : 41u);
}
int nvmlDeviceGetMarginTemperature(gpu_t *gpu, margin_t *margin)
{
    (void)gpu;
    if (margin->version != (1u << 24 | sizeof *margin))
        return 25;
    ANSWER(margin->celsius = -3);
}
int nvmlDeviceGetPowerUsage(gpu_t *gpu, unsigned *milliwatts) { (void)gpu; ANSWER(*milliwatts = 312500); }
int nvmlDeviceGetClockInfo(gpu_t *gpu, unsigned domain, unsigned *megahertz)
{
    (void)gpu;
    ANSWER(*megahertz = domain == 2 ? 10501 : 2520);
}
int nvmlDeviceGetPerformanceState(gpu_t *gpu, unsigned *state) { (void)gpu; ANSWER(*state = 2); }
int nvmlDeviceGetCurrentClocksEventReasons(gpu_t *gpu, unsigned long long *mask) { (void)gpu; ANSWER(*mask = 4); }
int nvmlDeviceGetUtilizationRates(gpu_t *gpu, utilization_t *rates)
{
    (void)gpu;
    ANSWER(rates->gpu = 97; rates->memory = 40);
}
int nvmlDeviceGetMemoryInfo_v2(gpu_t *gpu, memory_t *memory)
{
    (void)gpu;
    if (memory->version != (2u << 24 | sizeof *memory))
        return 25;
    ANSWER(memory->total = 1000; memory->reserved = 50; memory->used = 200; memory->free = 750);
}
int nvmlDeviceGetTotalEnergyConsumption(gpu_t *gpu, unsigned long long *millijoules)
{
    (void)gpu;
    ANSWER(*millijoules = 6000000000000ull);
}
int nvmlDeviceGetNumFans(gpu_t *gpu, unsigned *fans) { (void)gpu; ANSWER(*fans = 2); }
int nvmlDeviceGetFanSpeed_v2(gpu_t *gpu, unsigned fan, unsigned *percent)
{
    (void)gpu;
    ANSWER(*percent = 40 + fan);
}

int nvmlDeviceGetFieldValues(gpu_t *gpu, int count, field_t *fields)
{
    (void)gpu;
    int code = told("nvmlDeviceGetFieldValues");
    for (int at = 0; code == 0 && at < count; at++) {
        fields[at].code = 0;
        if (fields[at].field == 270)
            fields[at].value.ull = 5500000000ull;
        else if (fields[at].field == 193)
            fields[at].value.i = -8;
        else
            fields[at].code = 3;
    }
    return code;
}
